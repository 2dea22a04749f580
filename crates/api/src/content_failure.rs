//! Errors of the content API: a word for a code.

use crate::error::Failure;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hearth_control::{Error, Kind};
use hearth_volumes::content::{ContentError, EntryPath};
use hearth_wire::VolumeContentError;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct ContentFailure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ContentFailure {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// What went wrong with this path.
    pub(crate) fn of(error: ContentError, path: &EntryPath) -> Self {
        let Self {
            status,
            code,
            message,
        } = error.into();
        // What was asked for is repeated, but not without bound.
        let shown: String = path.text().chars().take(256).collect();
        Self::new(status, code, format!("{shown}: {message}"))
    }
}

impl From<ContentError> for ContentFailure {
    fn from(error: ContentError) -> Self {
        let (status, code) = match &error {
            ContentError::NotFound => (StatusCode::NOT_FOUND, "PATH_NOT_FOUND"),
            ContentError::Exists => (StatusCode::CONFLICT, "PATH_ALREADY_EXISTS"),
            ContentError::CannotDeleteRoot => (StatusCode::BAD_REQUEST, "CANNOT_DELETE_ROOT"),
            ContentError::NotSupported(_) => (StatusCode::BAD_REQUEST, "NOT_SUPPORTED"),
            ContentError::Depth => (StatusCode::BAD_REQUEST, "DEPTH_OUT_OF_RANGE"),
            ContentError::NotDirectory
            | ContentError::IsDirectory
            | ContentError::Link
            | ContentError::Invalid(_) => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            ContentError::NoSpace { .. } | ContentError::TooManyEntries { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "NOT_ENOUGH_SPACE")
            }
            ContentError::Io(source) => {
                tracing::error!(error = %source, "a call to a volume's content failed");
                (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL")
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<Error> for ContentFailure {
    fn from(error: Error) -> Self {
        let code = match error.kind {
            Kind::Invalid | Kind::Unprocessable => "INVALID_REQUEST",
            Kind::Unauthenticated => "UNAUTHENTICATED",
            Kind::Forbidden => "FORBIDDEN",
            Kind::NotFound => "PATH_NOT_FOUND",
            Kind::Conflict => "VOLUME_NOT_READY",
            Kind::LimitReached => "RATE_LIMITED",
            Kind::Unavailable | Kind::Timeout => "UNAVAILABLE",
            Kind::Unimplemented => "NOT_SUPPORTED",
            Kind::Internal => "INTERNAL",
        };
        let told = crate::error::told(error);
        let status = StatusCode::from_u16(told.code);
        Self::new(
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            told.message,
        )
    }
}

impl From<Failure> for ContentFailure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Control(error) => error.into(),
            Failure::Http { status, message } => {
                let code = match status.is_client_error() {
                    true => "INVALID_REQUEST",
                    false => "UNAVAILABLE",
                };
                Self::new(status, code, message)
            }
            // Here every error has a body of this kind.
            Failure::Plain { status, text } => Self::new(status, "INVALID_REQUEST", text),
        }
    }
}

impl IntoResponse for ContentFailure {
    fn into_response(self) -> Response {
        let body = VolumeContentError {
            code: self.code.to_owned(),
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}
