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
    /// The sandbox is in a state in which this cannot be done.
    #[error("sandbox {sandbox} {why}")]
    State {
        sandbox: SandboxId,
        why: &'static str,
    },
    /// What was kept is damaged; the source names the file.
    #[error("build {build} is damaged")]
    Damaged {
        build: BuildId,
        #[source]
        source: hearth_snapshot::Error,
    },
    /// A memory that was kept cannot go on under this node's engine or on its processor.
    #[error(transparent)]
    Incompatible(#[from] hearth_snapshot::Incompatible),
    #[error("invalid argument: {0}")]
    Invalid(String),
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
    /// A build cannot be used: it is missing or damaged, or the disk fails.
    pub(crate) fn build(build: BuildId) -> impl FnOnce(hearth_snapshot::Error) -> Self {
        use hearth_snapshot::Error as Cause;
        move |source| match source {
            Cause::NotFound(_) => Self::BuildNotFound { build, source },
            Cause::Corrupt { .. } => Self::Damaged { build, source },
            other => Self::step("read the build")(other),
        }
    }

    /// A failure for want of disk space is the node's being full, whatever step met
    /// it.
    pub(crate) fn or_full(self) -> Self {
        let mut cause: Option<&dyn std::error::Error> = Some(&self);
        while let Some(error) = cause {
            let full = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
                || matches!(error.downcast_ref(), Some(hearth_block::IoError::NoSpace));
            if full {
                return Self::Capacity("the node is out of disk space".to_owned());
            }
            cause = error.source();
        }
        self
    }

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

pub(crate) use hearth_util::chain;
