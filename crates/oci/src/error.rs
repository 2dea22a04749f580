//! What can go wrong between a reference and a tree. Messages are for the person
//! who named the image.

use std::{io, path::PathBuf};

/// What can go wrong between a reference and a tree.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invalid image reference {text:?}: {why}")]
    Reference { text: String, why: &'static str },
    #[error("the registry {registry} cannot be reached: {why}")]
    Unreachable { registry: String, why: String },
    #[error("the registry {registry} has no image {image}")]
    NotFound { registry: String, image: String },
    #[error("the registry {registry} refuses access to {image}: {why}")]
    Unauthorized {
        registry: String,
        image: String,
        why: String,
    },
    #[error("the registry {registry} answered with status {status}: {message}")]
    Status {
        registry: String,
        status: u16,
        message: String,
    },
    /// The registry says something that cannot be.
    #[error("the registry {registry} sent something unexpected: {what}")]
    Protocol { registry: String, what: String },
    #[error("{what} has the digest {found}, not {expected}")]
    Digest {
        what: String,
        expected: String,
        found: String,
    },
    #[error("the image is for {found}, and guests here are linux/amd64")]
    Platform { found: String },
    #[error("the image is larger than the {limit_mib} MiB that are allowed")]
    TooLarge { limit_mib: u64 },
    #[error("a layer of the image cannot be read: {0}")]
    Layer(#[source] io::Error),
    #[error("a layer of the image has an entry that leads out of it: {0}")]
    Escape(String),
    #[error("a layer of the image has an entry of an unknown kind: {0}")]
    Entry(String),
    #[error("{doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{0}")]
    Credentials(String),
    #[error("a worker task ended early")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}
