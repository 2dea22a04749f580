//! Typed identifiers and names, the one registry of them. An id is parsed once,
//! where it enters the program; inside, no bare `String` or `Uuid` names a thing.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod sandbox;
mod template;
mod uuids;

pub use sandbox::SandboxId;
pub use template::{DEFAULT_TAG, TemplateId, TemplateReference};
pub use uuids::{BuildId, ExecutionId, TeamId, VolumeId};

/// Why a text is not the identifier that it should be. The message is fit for
/// the caller who sent the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not the ID of a sandbox.
    #[error("invalid sandbox ID {0:?}: expected \"i\" and 20 characters of a-z and 0-9")]
    Sandbox(String),
    /// Not the ID of a template.
    #[error("invalid template ID {0:?}: expected 1 to 128 characters of a-z, 0-9, \"-\" and \"_\"")]
    Template(String),
    /// Not the name of a template.
    #[error("invalid template reference {text:?}: {why}")]
    TemplateReference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Not a UUID.
    #[error("invalid {kind} ID {text:?}: expected a UUID")]
    Uuid {
        /// What the ID is of.
        kind: &'static str,
        /// What was given.
        text: String,
    },
}

/// Implements `Display`, `FromStr`-based serde and conversions for an id whose
/// text form is its only form.
macro_rules! text_serde {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_serde;

/// `length` random characters of the alphabet a-z0-9, each equally likely.
pub(crate) fn random_base36(length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(length);
    let mut buffer = [0u8; 32];
    while text.len() < length {
        getrandom::fill(&mut buffer).expect("the kernel's random source answers after boot");
        // 252 is the largest multiple of 36 in a byte: what lies above would
        // favour the first letters.
        let fair = buffer.iter().filter(|byte| **byte < 252);
        for byte in fair.take(length - text.len()) {
            text.push(char::from(ALPHABET[usize::from(byte % 36)]));
        }
    }
    text
}
