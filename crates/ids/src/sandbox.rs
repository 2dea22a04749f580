//! Sandbox ids: `i` and 20 characters of a-z0-9.

use crate::{ParseError, random_base36, text_serde};
use std::{fmt, str::FromStr};

const RANDOM_LENGTH: usize = 20;

/// Names one sandbox for its whole life, over pauses and restarts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(String);

impl SandboxId {
    /// A new id with 103 bits of randomness.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("i{}", random_base36(RANDOM_LENGTH)))
    }

    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses an id as a client may send it: bare, or in the older form
    /// `<id>-<clientID>`, whose second half carries nothing.
    pub fn parse_client(text: &str) -> Result<Self, ParseError> {
        let bare = text.split_once('-').map_or(text, |(id, _client)| id);
        bare.parse()
            .map_err(|_| ParseError::Sandbox(text.to_owned()))
    }
}

impl FromStr for SandboxId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let valid = text.strip_prefix('i').is_some_and(|rest| {
            rest.len() == RANDOM_LENGTH
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        });
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::Sandbox(text.to_owned()))
        }
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

text_serde!(SandboxId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let first = SandboxId::random();
        assert_eq!(first.as_str().parse(), Ok(first.clone()));
        assert_ne!(first, SandboxId::random());
    }

    #[test]
    fn client_suffix_is_dropped() {
        let id = SandboxId::random();
        assert_eq!(
            SandboxId::parse_client(&format!("{id}-6532622b")),
            Ok(id.clone())
        );
        assert_eq!(SandboxId::parse_client(id.as_str()), Ok(id));
    }

    proptest! {
        #[test]
        fn only_the_documented_form_parses(text in ".{0,40}") {
            let form = text.len() == 21
                && text.starts_with('i')
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            prop_assert_eq!(text.parse::<SandboxId>().is_ok(), form);
        }
    }
}
