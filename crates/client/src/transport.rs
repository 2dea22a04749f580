//! One pool of HTTP connections, and what every call does with it.

use crate::{Error, Result};
use bytes::Bytes;
use connectrpc::client::ClientBody;
use http::{Request, Response, StatusCode};
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
pub(crate) const MAX_BODY_BYTES: usize = 32 << 20;

/// The pooled client; clones share the pool.
pub(crate) type HttpPool = Client<HttpConnector, ClientBody>;

pub(crate) fn pool() -> HttpPool {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEEP)
        .build(connector)
}

/// Sends a request and waits for the answer's head.
pub(crate) async fn send(
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
pub(crate) async fn read(
    response: Response<Incoming>,
    limit: usize,
    timeout: Duration,
) -> Result<Bytes> {
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
pub(crate) async fn accept(
    response: Response<Incoming>,
    timeout: Duration,
) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read(response, MAX_BODY_BYTES, timeout).await?;
    Err(refused(status, &body))
}

fn refused(status: StatusCode, body: &[u8]) -> Error {
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
