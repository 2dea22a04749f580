//! What can go wrong with stored builds.

use hearth_ids::BuildId;
use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("build {0} is not stored here")]
    NotFound(BuildId),
    #[error("build {0} is stored already")]
    Exists(BuildId),
    #[error("build {build} is damaged: {file}: {why}")]
    Corrupt {
        build: BuildId,
        /// The file's name inside the build.
        file: String,
        why: Corruption,
    },
    /// The draft handed to `publish` contradicts itself or what was staged.
    #[error("the build cannot be published: {0}")]
    Draft(String),
    #[error("{doing} {path}")]
    Io {
        /// A present-tense verb phrase, such as "read".
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the storage task ended early")]
    Task(#[source] tokio::task::JoinError),
}

/// Why a stored file is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    #[error("the file is missing")]
    Missing,
    #[error("not a regular file")]
    NotAFile,
    #[error("{found} bytes long, {expected} expected")]
    Size { expected: u64, found: u64 },
    #[error("the content does not match its digest")]
    Digest,
    #[error("{0}")]
    Manifest(String),
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
