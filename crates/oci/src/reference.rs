//! Names of images, as people write them.

use crate::Error;
use std::{fmt, str::FromStr};

/// The registry that is meant when a name has none.
const DEFAULT_REGISTRY: &str = "docker.io";
const MAX_LENGTH: usize = 512;

/// `[registry/]repository[:tag][@digest]`, completed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `host[:port]`; `docker.io` for the default one.
    pub registry: String,
    /// Such as `library/debian`.
    pub repository: String,
    /// `latest` where neither tag nor digest is given.
    pub tag: Option<String>,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

impl Reference {
    /// What the registry is asked for: the digest where there is one.
    #[must_use]
    pub fn version(&self) -> &str {
        self.digest
            .as_deref()
            .or(self.tag.as_deref())
            .unwrap_or("latest")
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why| {
            Err(Error::Reference {
                text: text.chars().take(MAX_LENGTH).collect(),
                why,
            })
        };
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.len() > MAX_LENGTH {
            return refuse("it is empty or too long");
        }
        let (name, digest) = match trimmed.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (trimmed, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return refuse("the digest is not sha256: and 64 hexadecimal digits");
        }
        // A registry is told from a first directory by what only hosts have.
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest)
            }
            _ => (DEFAULT_REGISTRY, name),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
        let begins = registry.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins || registry.contains("..") || !registry.bytes().all(host) {
            return refuse("the registry is not host[:port]");
        }
        let part = |part: &str| {
            let fits = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
            };
            let ends = |end: Option<u8>| end.is_some_and(|byte| byte.is_ascii_alphanumeric());
            let bytes = part.as_bytes();
            let joined = !part.contains("..") && !part.contains("._") && !part.contains("_.");
            joined
                && ends(bytes.first().copied())
                && ends(bytes.last().copied())
                && part.bytes().all(fits)
        };
        if !repository.split('/').all(part) {
            return refuse(
                "each part of the name takes a-z and 0-9, with \".\", \"_\" or \"-\" between them",
            );
        }
        let is_tag = |tag: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.bytes().all(fits)
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return refuse("the tag takes letters, digits, \".\", \"_\" and \"-\"");
        }
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: match (tag, digest) {
                (None, None) => Some("latest".to_owned()),
                (tag, _) => tag.map(str::to_owned),
            },
            digest: digest.map(str::to_owned),
        })
    }
}

/// Whether text is a digest of the one kind that is checked here.
pub(crate) fn is_digest(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:")
        .is_some_and(|rest| rest.len() == 64 && rest.bytes().all(hex))
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        for (text, whole) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("oven/bun:1", "docker.io/oven/bun:1".to_owned()),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest".to_owned()),
            (
                "index.docker.io/library/x:y",
                "docker.io/library/x:y".to_owned(),
            ),
            (
                &format!("ghcr.io/x/y@{digest}"),
                format!("ghcr.io/x/y@{digest}"),
            ),
            (&format!("r.io/x:t@{digest}"), format!("r.io/x:t@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().expect(text).to_string(), whole);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            " ",
            "A",
            "a b",
            "../x",
            "x/../y",
            "x..",
            "x..y",
            "x/y.",
            "x/-y",
            "x._y",
            "x:",
            "x:-t",
            "x@sha256:12",
            "r.io//x",
            "http://r.io/x",
            "r.io/x?y=z",
            "r.io/x#y",
            "user@r.io/x",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was taken");
        }
    }
}
