//! What can go wrong in a call.

use connectrpc::ConnectError;
use std::time::Duration;

/// Why a call failed.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The base URL is not `http://host[:port][/path]`.
    #[error("invalid base URL {0:?}: expected http://host[:port]")]
    BaseUrl(String),
    /// A token or key contains what no header may.
    #[error("{0} contains characters that a header cannot carry")]
    HeaderValue(&'static str),
    /// The server answered an id that is not one.
    #[error(transparent)]
    Id(#[from] hearth_ids::ParseError),
    /// No connection, or it broke.
    #[error("send the request")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The API, the edge or the agent refused the call with an HTTP status.
    #[error("{status}: {message}")]
    Status {
        status: u16,
        message: String,
        /// What went wrong, for a program, where the server says.
        error_code: Option<String>,
    },
    /// The agent refused a remote procedure call.
    #[error("{code}: {message}")]
    Rpc { code: String, message: String },
    /// The answer is not what the contract says.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// More came than the caller wanted to take.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// The file of the host that is to be sent cannot be opened.
    #[error("open the file to send")]
    Source(#[source] std::io::Error),
    /// What takes a downloaded file failed.
    #[error("write the downloaded file")]
    Sink(#[source] std::io::Error),
}

impl Error {
    /// The HTTP status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// An answer that is not what the contract says.
    pub fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Rpc {
            code: error.code.as_str().to_owned(),
            message: error.message.clone().unwrap_or_default(),
        }
    }
}
