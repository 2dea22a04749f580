//! The one error of the application layer.
//!
//! What the caller may read and what only the operator may are different fields:
//! `message` goes out, `source` goes to the log.

use crate::node::NodeError;
use std::fmt;
use std::sync::Arc;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type SharedError = Arc<dyn std::error::Error + Send + Sync>;

/// The kind decides the transport's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request says something that is not allowed.
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    /// The thing is in a state in which this cannot be done.
    Conflict,
    /// The request contradicts an earlier one.
    Unprocessable,
    /// The caller uses up what it may.
    LimitReached,
    /// The system has no room, or a part of it is away.
    Unavailable,
    /// A part of the system did not answer in time.
    Timeout,
    /// Not built, or not on this node.
    Unimplemented,
    Internal,
}

/// Whether the same request, sent again at once, could fare better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It cannot: sending it again only adds load, or could do it twice.
    Never,
    /// Left to the caller.
    Unsaid,
}

/// Clones share the source: several callers may be told of one failure.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    /// For the caller.
    pub message: String,
    /// For programs, where the contract names one.
    pub code: Option<&'static str>,
    pub retry: Retry,
    /// For the log alone.
    pub source: Option<SharedError>,
}

pub(crate) mod code {
    pub(crate) const CAPACITY_UNAVAILABLE: &str = "sandbox_capacity_unavailable";
    pub(crate) const NO_COMPATIBLE_NODE: &str = "sandbox_no_compatible_node";
    pub(crate) const PLACEMENT_TIMEOUT: &str = "sandbox_placement_timeout";
    pub(crate) const START_IN_FLIGHT: &str = "sandbox_start_in_flight";
    pub(crate) const BOOT_UNCONFIRMED: &str = "sandbox_filesystem_boot_unconfirmed";
    pub(crate) const CREATE_FAILED: &str = "sandbox_create_failed";
    pub(crate) const INTERNAL: &str = "internal_server_error";
    pub(crate) const IDEMPOTENCY_MISMATCH: &str = "idempotency_request_mismatch";
    pub(crate) const IDEMPOTENCY_IN_PROGRESS: &str = "idempotency_in_progress";
    pub(crate) const GUEST_UNRESPONSIVE: &str = "sandbox_snapshot_guest_agent_unresponsive";
    pub(crate) const FILESYSTEM_SNAPSHOT_DISABLED: &str = "snapshot_filesystem_only_disabled";
    pub(crate) const SECRET_LIMIT_REACHED: &str = "secret_limit_reached";
    pub(crate) const IDEMPOTENCY_UNKNOWN: &str = "idempotency_outcome_unknown";
}

impl Error {
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            code: None,
            retry: Retry::Unsaid,
            source: None,
        }
    }

    /// A field of the request that does not hold what it may.
    #[must_use]
    pub fn invalid(field: &str, why: impl fmt::Display) -> Self {
        Self::new(Kind::Invalid, format!("validation error: {field}: {why}"))
    }

    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// There is no such sandbox for this caller; whether another team has it is
    /// nobody's business.
    #[must_use]
    pub fn sandbox_not_found(id: &str) -> Self {
        // What was asked for is repeated, but not without bound.
        let shown: String = id.chars().take(64).collect();
        Self::not_found(format!(
            "Sandbox \"{shown}\" doesn't exist or you don't have access to it"
        ))
    }

    #[must_use]
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::new(Kind::Internal, "Internal server error")
            .with_code(code::INTERNAL)
            .with_source(source)
    }

    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    #[must_use]
    pub fn never_retry(mut self) -> Self {
        self.retry = Retry::Never;
        self
    }

    /// A node's refusal of anything but a create, where its own message says
    /// enough.
    #[must_use]
    pub fn from_node(error: NodeError) -> Self {
        match error {
            NodeError::NotFound(message) => Self::not_found(message),
            NodeError::AlreadyExists(message) | NodeError::InTransition(message) => {
                Self::new(Kind::Conflict, message)
            }
            NodeError::Invalid(message) => Self::new(Kind::Invalid, message),
            NodeError::Exhausted(message) => Self::new(Kind::Unavailable, message).never_retry(),
            NodeError::Unimplemented(message) => {
                Self::new(Kind::Unimplemented, message).never_retry()
            }
            NodeError::Unreachable(_) => {
                Self::new(Kind::Unavailable, "The node cannot be reached").with_source(error)
            }
            NodeError::Deadline => {
                Self::new(Kind::Timeout, "The node did not answer in time").with_source(error)
            }
            NodeError::Damaged(_) => Self::new(
                Kind::Internal,
                "What was kept of the sandbox is damaged, it cannot be resumed",
            )
            .with_code(code::INTERNAL)
            .never_retry()
            .with_source(error),
            NodeError::Internal(_) => Self::internal(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<hearth_store::Error> for Error {
    fn from(error: hearth_store::Error) -> Self {
        match error {
            hearth_store::Error::Conflict(what) => {
                Self::new(Kind::Conflict, format!("{what} already exists"))
            }
            hearth_store::Error::Full => {
                Self::new(Kind::Unavailable, "The server has no disk space left")
                    .never_retry()
                    .with_source(error)
            }
            hearth_store::Error::ReadOnly => {
                Self::new(Kind::Unavailable, "The server's database is read-only")
                    .never_retry()
                    .with_source(error)
            }
            hearth_store::Error::Unreachable(_) => {
                Self::new(Kind::Unavailable, "The server's database cannot be reached")
                    .with_source(error)
            }
            hearth_store::Error::TakenOver(_) => Self::new(
                Kind::Unavailable,
                "The server stood still for too long, and another one took over: try again",
            )
            .with_source(error),
            other => Self::internal(other),
        }
    }
}
