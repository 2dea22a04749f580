//! Fields of a document that this version does not know: a newer one wrote them, and
//! shall find them again after this one has rewritten the document.
//!
//! Those of an object within the document are kept for as long as the object is what
//! it was: said of another thing they would be wrong. The settings of a sandbox are
//! one thing throughout its life.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

const LASTING: &[&str] = &["spec"];

#[derive(Debug, Clone, Default)]
pub(super) struct Unknown {
    fields: Map<String, Value>,
    within: BTreeMap<String, Within>,
}

#[derive(Debug, Clone)]
struct Within {
    /// The object as this version understands it.
    known: Value,
    unknown: Unknown,
}

impl Unknown {
    /// What is in the document `read` but not in `known`, which is as much of it as
    /// was understood.
    pub(super) fn of(read: &Value, known: &Value) -> Self {
        let mut unknown = Self::default();
        let (Value::Object(read), Value::Object(known)) = (read, known) else {
            return unknown;
        };
        for (name, field) in read {
            match known.get(name) {
                None => {
                    unknown.fields.insert(name.clone(), field.clone());
                }
                Some(understood) => {
                    let below = Self::of(field, understood);
                    if !below.is_empty() {
                        let within = Within {
                            known: understood.clone(),
                            unknown: below,
                        };
                        unknown.within.insert(name.clone(), within);
                    }
                }
            }
        }
        unknown
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.within.is_empty()
    }

    /// Puts the fields back into what this version writes.
    pub(super) fn restore(&self, document: &mut Value) {
        let Value::Object(document) = document else {
            return;
        };
        for (name, within) in &self.within {
            if let Some(field) = document.get_mut(name)
                && (LASTING.contains(&name.as_str()) || *field == within.known)
            {
                within.unknown.restore(field);
            }
        }
        for (name, field) in &self.fields {
            document
                .entry(name.clone())
                .or_insert_with(|| field.clone());
        }
    }
}
