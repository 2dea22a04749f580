//! Why a request does not reach a guest. The texts that clients search for (`was not
//! found`, `port is not open`) are part of the contract; [`crate::answer`] puts them into
//! responses.

use hearth_ids::SandboxId;
use http::{HeaderName, Method, StatusCode};

/// Why a request does not reach a guest.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Invalid host")]
    InvalidHost,
    #[error("Invalid sandbox ID {0:?}")]
    InvalidSandboxId(String),
    #[error("Invalid sandbox port {0:?}: expected a number from 1 to 65535")]
    InvalidPort(String),
    #[error("Missing header {0}: it names the sandbox on this host together with its companion")]
    MissingHeader(HeaderName),
    #[error("Header {0} is sent more than once")]
    RepeatedHeader(HeaderName),
    #[error("Method {0} is not supported")]
    UnsupportedMethod(Method),
    #[error(
        "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' \
         is missing"
    )]
    TrafficTokenMissing(SandboxId),
    #[error(
        "Sandbox is secured with traffic access token. Provided token in header \
         'e2b-traffic-access-token' is invalid"
    )]
    TrafficTokenInvalid(SandboxId),
    #[error("The network rules of the sandbox that asks deny this")]
    RulesDeny(Option<SandboxId>),
    #[error("You may not resume this sandbox")]
    ResumeDenied(SandboxId),
    #[error("This route is reserved for the E2B control plane")]
    InternalRoute(SandboxId),
    #[error("The signature belongs to no running sandbox")]
    UnknownSignature,
    #[error("The sandbox is still changing its state, try again")]
    Transitioning(SandboxId),
    #[error("Too many open connections to the sandbox (at most {limit})")]
    TooManyConnections { id: SandboxId, limit: usize },
    #[error("The team has too many running sandboxes to resume this one")]
    TeamLimit(SandboxId),
    #[error("The sandbox is paused and could not be resumed, try again")]
    ResumeFailed(SandboxId),
    #[error("The sandbox was not found")]
    NotFound(SandboxId),
    #[error("The sandbox is running but port is not open")]
    PortClosed { id: SandboxId, port: u16 },
    #[error("The sandbox closed the connection before it answered")]
    Broken { id: SandboxId, port: u16 },
    #[error("The service does not speak HTTPS, although httpsPorts lists its port")]
    NoTls { id: SandboxId, port: u16 },
    #[error("This address serves sandboxes only")]
    NoSandbox,
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidHost
            | Self::InvalidSandboxId(_)
            | Self::InvalidPort(_)
            | Self::MissingHeader(_)
            | Self::RepeatedHeader(_)
            | Self::NoSandbox => StatusCode::BAD_REQUEST,
            Self::UnsupportedMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TrafficTokenMissing(_)
            | Self::TrafficTokenInvalid(_)
            | Self::RulesDeny(_)
            | Self::ResumeDenied(_) => StatusCode::FORBIDDEN,
            Self::InternalRoute(_) | Self::UnknownSignature => StatusCode::NOT_FOUND,
            Self::Transitioning(_) => StatusCode::CONFLICT,
            Self::TooManyConnections { .. } | Self::TeamLimit(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::ResumeFailed(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound(_)
            | Self::PortClosed { .. }
            | Self::Broken { .. }
            | Self::NoTls { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// The sandbox that the request named, when it named one.
    #[must_use]
    pub fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            Self::TrafficTokenMissing(id)
            | Self::TrafficTokenInvalid(id)
            | Self::ResumeDenied(id)
            | Self::InternalRoute(id)
            | Self::Transitioning(id)
            | Self::TeamLimit(id)
            | Self::ResumeFailed(id)
            | Self::NotFound(id)
            | Self::TooManyConnections { id, .. }
            | Self::PortClosed { id, .. }
            | Self::Broken { id, .. }
            | Self::NoTls { id, .. } => Some(id),
            Self::RulesDeny(id) => id.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::PortClosed { port, .. }
            | Self::Broken { port, .. }
            | Self::NoTls { port, .. } => Some(*port),
            _ => None,
        }
    }
}
