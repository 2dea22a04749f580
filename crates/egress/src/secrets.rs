//! Secrets that are put into requests and never into a sandbox.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderName, HeaderValue};

const OPEN: &str = "${e2b.";
const SECRETS: &str = "secrets.";

/// Where secrets are kept.
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// The value of a team's secret, if there is one. Must not block for long.
    fn secret(&self, team_id: &str, name: &str) -> Option<String>;
}

/// For nodes without secrets.
#[derive(Debug, Default)]
pub struct NoSecrets;

impl SecretSource for NoSecrets {
    fn secret(&self, _team_id: &str, _name: &str) -> Option<String> {
        None
    }
}

/// Why a header cannot be sent. Says which, never what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    #[error("there is no secret {0:?}")]
    NoSecret(String),
    #[error("{0:?} is no placeholder that can be filled")]
    Unknown(String),
    #[error("the header {0:?} cannot be sent")]
    Header(String),
}

/// Fills the placeholders in headers' values.
pub(crate) fn fill(
    headers: &BTreeMap<String, String>,
    secret: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, FillError> {
    headers
        .iter()
        .map(|(name, value)| {
            let unsendable = || FillError::Header(name.clone());
            let value = fill_value(value, &secret)?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| unsendable())?;
            value.set_sensitive(true);
            let name = HeaderName::try_from(name.as_str()).map_err(|_| unsendable())?;
            Ok((name, value))
        })
        .collect()
}

fn fill_value(text: &str, secret: &impl Fn(&str) -> Option<String>) -> Result<String, FillError> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        filled.push_str(&rest[..at]);
        let inner = &rest[at + OPEN.len()..];
        let (placeholder, after) = inner
            .split_once('}')
            .ok_or_else(|| FillError::Unknown(rest[at..].to_owned()))?;
        let name = placeholder
            .strip_prefix(SECRETS)
            .ok_or_else(|| FillError::Unknown(placeholder.to_owned()))?;
        filled.push_str(&secret(name).ok_or_else(|| FillError::NoSecret(name.to_owned()))?);
        // What a secret contains is not looked at again.
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<String, FillError> {
        fill_value(text, &|name: &str| match name {
            "key" => Some("k-123".to_owned()),
            "tricky" => Some("${e2b.secrets.key}".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn placeholders_are_filled_once() {
        assert_eq!(value("Bearer ${e2b.secrets.key}").unwrap(), "Bearer k-123");
        assert_eq!(
            value("${e2b.secrets.key}-${e2b.secrets.key}").unwrap(),
            "k-123-k-123"
        );
        assert_eq!(
            value("${e2b.secrets.tricky}").unwrap(),
            "${e2b.secrets.key}"
        );
        assert_eq!(value("${HOME} $").unwrap(), "${HOME} $");
    }

    #[test]
    fn what_cannot_be_filled_is_an_error_without_the_values() {
        assert_eq!(
            value("${e2b.secrets.other}"),
            Err(FillError::NoSecret("other".to_owned()))
        );
        assert!(matches!(
            value("${e2b.identity.tokens.x}"),
            Err(FillError::Unknown(_))
        ));
        assert!(matches!(
            value("${e2b.secrets.key"),
            Err(FillError::Unknown(_))
        ));
        let headers = BTreeMap::from([("x-a".to_owned(), "a\nb".to_owned())]);
        assert_eq!(
            fill(&headers, |_| None),
            Err(FillError::Header("x-a".to_owned()))
        );
    }
}
