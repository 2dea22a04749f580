//! Errors as HTTP answers: the one place where kinds become statuses.
//!
//! What only the operator may know is logged here, once, and never sent.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hearth_control::{Error, Kind, Retry};
use hearth_wire::ApiError;
use std::error::Error as _;

/// Tells clients whether to send a request again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Control(Error),
    /// What only HTTP knows of.
    Http {
        status: StatusCode,
        message: String,
    },
    /// What the contract answers as a bare text, or without any body where it is empty.
    Plain {
        status: StatusCode,
        text: &'static str,
    },
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn http(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Http {
            status,
            message: message.into(),
        }
    }
}

/// Answers what is not there as the routes do whose 404 is no JSON: with a bare text.
pub(crate) fn plain_not_found(text: &'static str) -> impl FnOnce(Error) -> Failure {
    move |error| match error.kind {
        Kind::NotFound => Failure::Plain {
            status: StatusCode::NOT_FOUND,
            text,
        },
        _ => error.into(),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Control(error)
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::LimitReached => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = match self {
            Self::Control(error) => error,
            Self::Http { status, message } => return answer(status, message, None, Retry::Unsaid),
            Self::Plain { status, text: "" } => return status.into_response(),
            Self::Plain { status, text } => return (status, text).into_response(),
        };
        log(&error);
        answer(status(error.kind), error.message, error.code, error.retry)
    }
}

/// An error as a part of an answer that is none as a whole.
pub(crate) fn told(error: Error) -> ApiError {
    log(&error);
    ApiError {
        code: status(error.kind).as_u16(),
        message: error.message,
        error_code: error.code.map(str::to_owned),
    }
}

fn log(error: &Error) {
    let cause = causes(error);
    match error.kind {
        Kind::Internal => tracing::error!(%error, cause, "a request failed"),
        Kind::Unavailable | Kind::Timeout => {
            tracing::warn!(%error, cause, "a request could not be served");
        }
        _ => {}
    }
}

fn answer(
    status: StatusCode,
    message: String,
    code: Option<&'static str>,
    retry: Retry,
) -> Response {
    let body = ApiError {
        code: status.as_u16(),
        message,
        error_code: code.map(str::to_owned),
    };
    let mut response = (status, Json(body)).into_response();
    if retry == Retry::Never {
        response
            .headers_mut()
            .insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}

fn causes(error: &Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
