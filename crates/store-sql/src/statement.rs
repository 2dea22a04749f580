//! A statement with its values.

use std::borrow::Cow;

/// A value for one of the places of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, or none.
    Text(Option<String>),
    /// A number, or none.
    Number(Option<i64>),
}

/// A statement, and the values for `$1`, `$2` and so on.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The text. Never made of what callers sent: that goes into the values.
    pub text: Cow<'static, str>,
    /// The values, in order.
    pub values: Vec<Value>,
}

impl Statement {
    /// A statement that has no values yet.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: text.into(),
            values: Vec::new(),
        }
    }

    /// With a text as its next value.
    #[must_use]
    pub fn text(mut self, value: impl ToString) -> Self {
        self.values.push(Value::Text(Some(value.to_string())));
        self
    }

    /// With a text that may be missing.
    #[must_use]
    pub fn text_option(mut self, value: Option<impl ToString>) -> Self {
        let value = value.map(|value| value.to_string());
        self.values.push(Value::Text(value));
        self
    }

    /// With a number, or a truth value as 0 or 1.
    #[must_use]
    pub fn number(mut self, value: impl Into<i64>) -> Self {
        self.values.push(Value::Number(Some(value.into())));
        self
    }

    /// With a number that may be missing.
    #[must_use]
    pub fn number_option(mut self, value: Option<i64>) -> Self {
        self.values.push(Value::Number(value));
        self
    }
}
