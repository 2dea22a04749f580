//! Calls of the guest's agent that are not about processes. The guest may be
//! hostile: what it answers is bounded.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::{io, net::SocketAddr, path::Path, time::Duration};
use tokio::net::TcpStream;

/// How long the agent may take for a short answer.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How long writing out the guest's caches and holding its disk still may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(300);
/// How long a file may take to be sent.
const SEND_LIMIT: Duration = Duration::from_secs(1800);
/// The longest text that an answer may hold, in bytes.
const MAX_ANSWER: usize = 4 << 20;

type Body = UnsyncBoxBody<Bytes, io::Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("the agent did not answer {path} within {limit:?}")]
    Timeout { path: String, limit: Duration },
    #[error("connect to the agent")]
    Connect(#[source] io::Error),
    #[error("talk to the agent")]
    Http(#[source] hyper::Error),
    #[error("the agent's answer cannot be read: {0}")]
    Answer(String),
    #[error("the agent refused {path} with status {status}: {body}")]
    Refused {
        path: String,
        status: u16,
        body: String,
    },
    #[error("read what is to be sent")]
    Read(#[source] io::Error),
}

/// The agent of one guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
}

/// Settings for `/init`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Init<'a> {
    pub(crate) entropy: String,
    pub(crate) default_user: &'a str,
    pub(crate) default_workdir: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_bundle: Option<&'a str>,
}

impl<'a> Init<'a> {
    pub(crate) fn new(user: &'a str, workdir: &'a str, ca_bundle: Option<&'a str>) -> Self {
        let mut seed = [0u8; 64];
        getrandom::fill(&mut seed).expect("the kernel's random source answers after boot");
        Self {
            entropy: STANDARD.encode(seed),
            default_user: user,
            default_workdir: workdir,
            ca_bundle,
        }
    }
}

impl Agent {
    /// Sets clock, entropy and defaults; returns the agent's version. The clock is set to
    /// the time of this call: a guest may have booted since the settings were put together.
    pub(crate) async fn init(&self, init: &Init<'_>) -> Result<String, AgentError> {
        #[derive(Serialize)]
        struct Body<'a> {
            timestamp: String,
            #[serde(flatten)]
            settings: &'a Init<'a>,
        }
        let body = Body {
            timestamp: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
            settings: init,
        };
        let body = serde_json::to_vec(&body).expect("plain strings");
        let (version, _) = self
            .call(Method::POST, "/init", full(body), CALL_LIMIT)
            .await?;
        Ok(version)
    }

    /// Writes everything to the disk and holds it still.
    pub(crate) async fn freeze(&self) -> Result<(), AgentError> {
        self.post("/fsfreeze", FREEZE_LIMIT).await
    }

    pub(crate) async fn thaw(&self) -> Result<(), AgentError> {
        self.post("/fsthaw", CALL_LIMIT).await
    }

    async fn post(&self, path: &str, limit: Duration) -> Result<(), AgentError> {
        self.call(Method::POST, path, full(Vec::new()), limit)
            .await
            .map(drop)
    }

    /// Reads a small text file as root; `None` when there is none.
    pub(crate) async fn read(&self, path: &str) -> Result<Option<String>, AgentError> {
        let url = files(path);
        match self
            .call(Method::GET, &url, full(Vec::new()), CALL_LIMIT)
            .await
        {
            Ok((_, body)) => Ok(Some(String::from_utf8_lossy(&body).into_owned())),
            Err(AgentError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a file as root out of one of the host.
    pub(crate) async fn send(&self, from: &Path, to: &str) -> Result<(), AgentError> {
        let file = tokio::fs::File::open(from)
            .await
            .map_err(AgentError::Read)?;
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
        let body = StreamBody::new(stream.map_ok(Frame::data).boxed());
        self.call(Method::POST, &files(to), body.boxed_unsync(), SEND_LIMIT)
            .await
            .map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Body,
        limit: Duration,
    ) -> Result<(String, Bytes), AgentError> {
        tokio::time::timeout(limit, self.attempt(method, path, body))
            .await
            .unwrap_or_else(|_| {
                let path = path.to_owned();
                Err(AgentError::Timeout { path, limit })
            })
    }

    async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<(String, Bytes), AgentError> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(AgentError::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(AgentError::Http)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, self.address.to_string())
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .map_err(|error| AgentError::Answer(error.to_string()))?;
        // The connection lives as long as this exchange.
        let mut driver = tokio::task::JoinSet::new();
        driver.spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(AgentError::Http)?;
        let status = response.status();
        let version = response
            .headers()
            .get("x-envd-version")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| AgentError::Answer(error.to_string()))?
            .to_bytes();
        if status.is_success() || status == StatusCode::NO_CONTENT {
            return Ok((version, body));
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(400).collect();
        Err(AgentError::Refused {
            path: path.to_owned(),
            status: status.as_u16(),
            body: text,
        })
    }
}

fn files(path: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("path", path)
        .append_pair("username", "root")
        .finish();
    format!("/files?{query}")
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed_unsync()
}
