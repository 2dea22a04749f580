//! What the node refuses or fails at, free of transport.

use hearth_ids::{BuildId, SandboxId};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("sandbox {0} exists already")]
    AlreadyExists(SandboxId),
    #[error("sandbox {0} is not on this node")]
    NotFound(SandboxId),
    #[error("build {build} cannot be started on this node")]
    BuildNotFound {
        build: BuildId,
        #[source]
        source: hearth_snapshot::Error,
    },
    /// The node is full: in sandboxes, slots, memory or disk space.
    #[error("no capacity: {0}")]
    Capacity(String),
    #[error("invalid argument: {0}")]
    Invalid(String),
    #[error("{operation} is not available on this node")]
    Unsupported { operation: &'static str },
    #[error("the node is shutting down")]
    ShuttingDown,
    /// A step of a start, stop or adoption failed.
    #[error("{step}")]
    Step {
        step: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Wraps a failure with the step, a present-tense verb phrase, that met it.
    pub(crate) fn step<E>(step: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Step {
            step,
            source: source.into(),
        }
    }
}

/// The error and its causes on one line, for a log or an internal message.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
