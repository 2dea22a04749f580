//! Template ids and the references `[namespace/]alias[:tag]` that clients use.

use crate::{BuildId, ParseError, random_base36, text_serde};
use std::{fmt, str::FromStr};

/// The tag meant when a reference names none.
pub const DEFAULT_TAG: &str = "default";
const MAX_LENGTH: usize = 128;

/// Names one template. New ones are 20 characters of a-z0-9.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplateId(String);

impl TemplateId {
    /// A new random ID.
    #[must_use]
    pub fn random() -> Self {
        Self(random_base36(20))
    }

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::Template(text.to_owned()))
        }
    }
}

impl fmt::Display for TemplateId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

text_serde!(TemplateId);

/// A client's way to name a template: `[namespace/]alias[:tag]`, where the alias
/// may also be a template's id, and the tag the id of one of its builds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TemplateReference {
    /// What stands before the slash.
    pub namespace: Option<String>,
    /// The template's name or ID.
    pub alias: String,
    /// What stands after the colon.
    pub tag: Option<String>,
}

impl TemplateReference {
    /// The tag, or [`DEFAULT_TAG`].
    #[must_use]
    pub fn tag_or_default(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }

    /// The build that the tag names by its id, where the tag is a UUID.
    #[must_use]
    pub fn build(&self) -> Option<BuildId> {
        self.tag.as_deref()?.parse().ok()
    }

    /// Refuses a reference whose tag is to be assigned and is a UUID: those name
    /// builds, so a tag of that form could not be told from one.
    pub fn check_new_tag(&self) -> Result<(), ParseError> {
        match self.build() {
            None => Ok(()),
            Some(_) => Err(ParseError::TemplateReference {
                text: self.to_string(),
                why: "a new tag must not be a UUID",
            }),
        }
    }
}

impl FromStr for TemplateReference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = |why| {
            Err(ParseError::TemplateReference {
                text: text.to_owned(),
                why,
            })
        };
        let (path, tag) = match text.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (text, None),
        };
        let (namespace, alias) = match path.split_once('/') {
            Some((namespace, alias)) => (Some(namespace), alias),
            None => (None, path),
        };
        if !is_name(alias) {
            return refuse("the name takes 1 to 128 characters of a-z, 0-9, \"-\" and \"_\"");
        }
        if namespace.is_some_and(|namespace| !is_name(namespace)) {
            return refuse("the namespace takes 1 to 128 characters of a-z, 0-9, \"-\" and \"_\"");
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return refuse("the tag takes 1 to 128 characters of a-z, 0-9, \"-\", \"_\" and \".\"");
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            alias: alias.to_owned(),
            tag: tag.map(str::to_owned),
        })
    }
}

impl fmt::Display for TemplateReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(formatter, "{namespace}/")?;
        }
        formatter.write_str(&self.alias)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_name_byte)
}

fn is_tag(text: &str) -> bool {
    (1..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(|b| is_name_byte(b) || b == b'.')
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<TemplateReference, ParseError> {
        text.parse()
    }

    #[test]
    fn parts_are_found() {
        let reference = parse("team-a/base_2:v1.0").expect("valid");
        assert_eq!(reference.namespace.as_deref(), Some("team-a"));
        assert_eq!(reference.alias, "base_2");
        assert_eq!(reference.tag_or_default(), "v1.0");
        assert_eq!(parse("base").expect("valid").tag_or_default(), DEFAULT_TAG);
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in ["", "Base", "a/b/c", "a:", "/a", "a b", "a:b:c", "../x"] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_builds_id_is_a_tag_to_read_but_not_to_assign() {
        let id = "6e9a1d2c-0f0b-4b57-9f63-0a8f5a0a7a11";
        let reference = parse(&format!("a:{id}")).expect("valid");
        assert_eq!(
            reference.build().map(|id| id.to_string()).as_deref(),
            Some(id)
        );
        let refused = reference.check_new_tag().expect_err("is a UUID");
        assert!(
            refused.to_string().contains("must not be a UUID"),
            "{refused}"
        );
        for text in ["a", "a:v1", "a:6e9a1d2c"] {
            let reference = parse(text).expect("valid");
            assert_eq!(
                (reference.build(), reference.check_new_tag()),
                (None, Ok(()))
            );
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "([a-z0-9_-]{1,8}/)?[a-z0-9_-]{1,8}(:[a-z0-9_.-]{1,8})?") {
            prop_assert_eq!(parse(&text).expect("valid by construction").to_string(), text);
        }
    }
}
