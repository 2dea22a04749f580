//! Why a file operation failed, and how each of the two protocols says so.

use std::io;

use connectrpc::{ConnectError, ErrorCode};
use http::StatusCode;

use crate::http::HttpError;

/// A failed file operation. The message is for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FileError {
    pub kind: Kind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Invalid,
    NotFound,
    Exists,
    Denied,
    NoSpace,
    TooMany,
    /// Something must be done first, or cannot be done here at all.
    Precondition,
    Internal,
}

impl FileError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// From the kernel's answer to `doing` something.
    pub fn from_io(doing: &str, error: &io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::ENOENT) => Kind::NotFound,
            Some(libc::EEXIST | libc::ENOTEMPTY) => Kind::Exists,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Kind::Denied,
            Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Kind::TooMany,
            Some(libc::EBUSY | libc::ETXTBSY | libc::EXDEV | libc::EOPNOTSUPP) => {
                Kind::Precondition
            }
            Some(
                libc::ENOTDIR
                | libc::EISDIR
                | libc::EINVAL
                | libc::ENAMETOOLONG
                | libc::ELOOP
                | libc::ENXIO
                | libc::EFBIG,
            ) => Kind::Invalid,
            _ => Kind::Internal,
        };
        Self::new(kind, format!("{doing}: {}", plain(error)))
    }
}

/// The system's text without Rust's "(os error 2)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

impl From<FileError> for ConnectError {
    fn from(error: FileError) -> Self {
        let code = match error.kind {
            Kind::Invalid => ErrorCode::InvalidArgument,
            Kind::NotFound => ErrorCode::NotFound,
            Kind::Exists => ErrorCode::AlreadyExists,
            Kind::Denied => ErrorCode::PermissionDenied,
            Kind::NoSpace | Kind::TooMany => ErrorCode::ResourceExhausted,
            Kind::Precondition => ErrorCode::FailedPrecondition,
            Kind::Internal => ErrorCode::Internal,
        };
        Self::new(code, error.message)
    }
}

impl From<FileError> for HttpError {
    fn from(error: FileError) -> Self {
        let status = match error.kind {
            Kind::Invalid | Kind::Exists | Kind::Precondition => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Kind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.message)
    }
}
