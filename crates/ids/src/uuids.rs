//! Ids that are UUIDs underneath, each a type of its own.

use crate::{ParseError, text_serde};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The ID with this UUID.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID underneath.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| ParseError::Uuid { kind: $kind, text: text.to_owned() })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        text_serde!($name);
    };
}

uuid_id!(
    /// One immutable build of a template or a snapshot: what a sandbox starts from.
    BuildId, "build"
);
uuid_id!(
    /// The owner of sandboxes, templates and keys.
    TeamId, "team"
);
uuid_id!(
    /// One run of a sandbox: changes at every start of the same sandbox id.
    ExecutionId, "execution"
);
uuid_id!(
    /// A directory tree that outlives sandboxes and that many of them may mount.
    VolumeId, "volume"
);
