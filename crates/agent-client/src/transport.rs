//! One pool of HTTP connections, and what every call does with it; also for clients of
//! other servers, such as the REST API, that share the pool.

use crate::{Error, Result};
use bytes::Bytes;
use connectrpc::client::ClientBody;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept without a request: less than the server's 620 s.
const KEEP: Duration = Duration::from_secs(300);
/// Bodies that are read whole (not files) may have this size.
pub const MAX_BODY_BYTES: usize = 32 << 20;

/// The header that carries an agent's access token.
pub(crate) const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// The pooled client; clones share the pool.
pub type HttpPool = Client<HttpConnector, ClientBody>;

/// A new pool.
#[must_use]
pub fn pool() -> HttpPool {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEEP)
        .build(connector)
}

/// A base URL, `http://host[:port][/path]`.
///
/// # Errors
/// [`Error::BaseUrl`] when it is not one.
pub fn parse_base(url: &str) -> Result<Uri> {
    let trimmed = url.trim().trim_end_matches('/');
    trimmed
        .parse::<Uri>()
        .ok()
        .filter(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some())
        .ok_or_else(|| Error::BaseUrl(url.to_owned()))
}

/// Appends a path with query to a base URL.
///
/// # Errors
/// When they make no URL.
pub fn join(base: &Uri, path: &str) -> Result<Uri> {
    let base = base.to_string();
    format!("{}{path}", base.trim_end_matches('/'))
        .parse()
        .map_err(|_| Error::protocol(format!("{path:?} makes no URL")))
}

/// An access token as a header's value, which is never printed.
///
/// # Errors
/// When no header can carry it.
pub fn token_value(token: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(token).map_err(|_| Error::HeaderValue("the access token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Sends a request and waits for the answer's head.
///
/// # Errors
/// When there is no connection, or no answer within `timeout`.
pub async fn send(
    pool: &HttpPool,
    request: Request<ClientBody>,
    timeout: Duration,
) -> Result<Response<Incoming>> {
    tokio::time::timeout(timeout, pool.request(request))
        .await
        .map_err(|_| Error::Timeout(timeout))?
        .map_err(|error| Error::Transport(error.into()))
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// When it is longer, breaks off or does not end within `timeout`.
pub async fn read(response: Response<Incoming>, limit: usize, timeout: Duration) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), limit);
    let collected = tokio::time::timeout(timeout, body.collect())
        .await
        .map_err(|_| Error::Timeout(timeout))?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLarge { limit }),
        Err(error) => Err(Error::Transport(error)),
    }
}

/// The part of error bodies that the API, the edge and the agent share.
#[derive(Deserialize)]
struct Refusal {
    message: String,
    #[serde(default)]
    error_code: Option<String>,
}

/// Turns a refusal into an error; an answer with a 2xx status is passed.
///
/// # Errors
/// [`Error::Status`], or as [`read`].
pub async fn accept(response: Response<Incoming>, timeout: Duration) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read(response, MAX_BODY_BYTES, timeout).await?;
    Err(refused(status, &body))
}

pub(crate) fn refused(status: StatusCode, body: &[u8]) -> Error {
    let refusal = serde_json::from_slice::<Refusal>(body).ok();
    let (message, error_code) = match refusal {
        Some(refusal) => (refusal.message, refusal.error_code),
        None => {
            let text = String::from_utf8_lossy(body);
            let text: String = text.trim().chars().take(200).collect();
            let reason = status.canonical_reason().unwrap_or("refused");
            let message = if text.is_empty() {
                reason.to_owned()
            } else {
                text
            };
            (message, None)
        }
    };
    Error::Status {
        status: status.as_u16(),
        message,
        error_code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        for bad in ["", "localhost:3000", "https://x", "http://", "ftp://x"] {
            assert!(matches!(parse_base(bad), Err(Error::BaseUrl(_))), "{bad}");
        }
        let base = parse_base("http://h:1/p/").expect("valid");
        assert_eq!(join(&base, "/x?y=z").expect("valid"), "http://h:1/p/x?y=z");
    }
}
