//! One request on a connection of its own, which ends with the answer.

use crate::{Error, Result, transport};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper_util::rt::TokioIo;
use std::{io, net::SocketAddr};
use tokio::net::TcpStream;

/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) struct Answer {
    /// The version that the agent says it has.
    pub(crate) version: String,
    pub(crate) body: Bytes,
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Connects, asks and reads the whole answer. The path is in the request's URI.
pub(crate) async fn exchange(
    address: SocketAddr,
    token: Option<&HeaderValue>,
    mut request: Request<Body>,
) -> Result<Answer> {
    let connected = |error: io::Error| Error::Transport(error.into());
    let stream = TcpStream::connect(address).await.map_err(connected)?;
    stream.set_nodelay(true).map_err(connected)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Error::Transport(error.into()))?;
    let host = HeaderValue::from_str(&address.to_string())
        .map_err(|_| Error::HeaderValue("the agent's address"))?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    if let Some(token) = token {
        headers.insert(transport::ACCESS_TOKEN, token.clone());
    }
    // The connection lives as long as this exchange: dropping the set aborts it.
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| Error::Transport(error.into()))?;
    let status = response.status();
    let version = response
        .headers()
        .get("x-envd-version")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = body.collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            return Error::TooLarge {
                limit: MAX_ANSWER_BYTES,
            };
        }
        Error::Transport(error)
    });
    let body = body?.to_bytes();
    if status.is_success() {
        return Ok(Answer { version, body });
    }
    Err(transport::refused(status, &body))
}
