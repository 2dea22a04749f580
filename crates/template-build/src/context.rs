//! What steps hand on to the steps after them: user, directory, variables.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The user that exists in every template.
pub const DEFAULT_USER: &str = "user";
pub const DEFAULT_WORKDIR: &str = "/home/user";
/// What the agent gives commands when nobody sets another.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// In which commands run, and sandboxes' commands by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub user: String,
    pub workdir: String,
    pub env: BTreeMap<String, String>,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            user: DEFAULT_USER.to_owned(),
            workdir: DEFAULT_WORKDIR.to_owned(),
            env: BTreeMap::new(),
        }
    }
}

impl Context {
    /// A path as seen from the current directory, without `.` and `..`.
    #[must_use]
    pub fn absolute(&self, path: &str) -> String {
        let mut parts: Vec<&str> = Vec::new();
        let whole = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.workdir)
        };
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }

    /// Sets variables, whose values may use those set before, also by the same
    /// instruction, as `$NAME`, `${NAME}`, `${NAME:-default}` or `${NAME:+other}`;
    /// a backslash keeps a dollar sign. One that is not set is empty.
    pub(crate) fn set_env(&mut self, pairs: &[(String, String)]) {
        for (name, value) in pairs {
            let value = self.expand(value);
            self.env.insert(name.clone(), value);
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        if let Some(value) = self.env.get(name) {
            return Some(value.clone());
        }
        match name {
            "PATH" => Some(DEFAULT_PATH.to_owned()),
            "HOME" if self.user == "root" => Some("/root".to_owned()),
            "HOME" => Some(format!("/home/{}", self.user)),
            "USER" => Some(self.user.clone()),
            _ => None,
        }
    }

    /// Puts variables in the place of their names.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(['$', '\\']) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(escaped) = rest.strip_prefix('\\') {
                // Only a dollar sign needs its backslash.
                if let Some(after) = escaped.strip_prefix('$') {
                    out.push('$');
                    rest = after;
                } else {
                    out.push('\\');
                    rest = escaped;
                }
                continue;
            }
            let after = &rest[1..];
            if let Some((inner, tail)) = after
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'))
                && let Some(value) = self.braced(inner)
            {
                out.push_str(&value);
                rest = tail;
                continue;
            }
            let length = name_length(after);
            if length == 0 {
                out.push('$');
            } else {
                out.push_str(&self.variable(&after[..length]).unwrap_or_default());
            }
            rest = &after[length..];
        }
        out.push_str(rest);
        out
    }

    fn braced(&self, inner: &str) -> Option<String> {
        let length = name_length(inner);
        let (name, operation) = inner.split_at(length);
        if length == 0 {
            return None;
        }
        let set = self.variable(name).filter(|value| !value.is_empty());
        if operation.is_empty() {
            return Some(set.unwrap_or_default());
        }
        if let Some(default) = operation.strip_prefix(":-") {
            return Some(set.unwrap_or_else(|| default.to_owned()));
        }
        let other = operation.strip_prefix(":+")?;
        Some(set.map(|_| other.to_owned()).unwrap_or_default())
    }
}

fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn variables_see_those_before_them() {
        let mut context = Context::default();
        context.set_env(&[pair("A", "1"), pair("B", "${A}"), pair("D", "${E}")]);
        context.set_env(&[
            pair("C", "${A}$A-${D:-none}-${A:+yes}-\\$A-$"),
            pair("PATH", "/x:$PATH"),
        ]);
        assert_eq!((&*context.env["B"], &*context.env["D"]), ("1", ""));
        assert_eq!(context.env["C"], "11-none-yes-$A-$");
        assert!(context.env["PATH"].starts_with("/x:/usr/local/sbin"));
    }

    #[test]
    fn paths_start_at_the_directory_and_stay_below_the_root() {
        let context = Context::default();
        assert_eq!(context.absolute("app/./x/../y/"), "/home/user/app/y");
        assert_eq!(context.absolute("."), "/home/user");
        assert_eq!(context.absolute("/../../etc"), "/etc");
    }

    proptest! {
        #[test]
        fn text_without_dollars_and_backslashes_stays(text in "[^$\\\\]*") {
            prop_assert_eq!(Context::default().expand(&text), text);
        }

        #[test]
        fn any_text_expands(text in ".*") {
            let _ = Context::default().expand(&text);
        }
    }
}
