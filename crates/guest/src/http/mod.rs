//! The agent's HTTP side: one port, HTTP/1.1 and cleartext HTTP/2, on which the
//! RPC services and a few plain routes live.

pub mod caller;
pub mod cors;
pub mod error;
pub mod init;
pub mod internal;
pub mod leftover;
pub mod metrics;
pub mod route;
pub mod server;
pub mod timeout;
pub mod tunnel;
pub mod upgrade;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

pub use error::HttpError;

/// Every response body; errors break the connection off.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub type Response = http::Response<Body>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub fn empty() -> Body {
    http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Success with nothing to say.
pub fn no_content() -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = http::StatusCode::NO_CONTENT;
    response
}

/// A response with a JSON body.
pub fn json<T: serde::Serialize>(status: http::StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let mut response = Response::new(full(text));
            *response.status_mut() = status;
            response.headers_mut().insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("application/json"),
            );
            response
        }
        Err(error) => HttpError::internal(error.to_string()).into_response(),
    }
}
