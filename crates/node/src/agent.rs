//! The node's side of the guest agent's `POST /init`: one request right after a
//! restore. The guest's kernel takes the connection as soon as its CPUs run and
//! the agent answers when it is ready, so readiness needs no polling.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::net::TcpStream;

/// Body of `/init`. Field names are the agent's contract; `entropy`, `hostname`,
/// `sandboxId` and `templateId` are Hearth's own.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Init<'a> {
    pub env_vars: &'a BTreeMap<String, String>,
    /// Absent leaves the agent as it is, the empty one leaves it without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<&'a str>,
    /// RFC 3339, with nanoseconds: the guest's clock is set to it.
    pub timestamp: String,
    pub default_user: &'a str,
    pub default_workdir: &'a str,
    pub hostname: &'a str,
    /// Base64 of bytes for the guest kernel's random generator.
    pub entropy: String,
    pub sandbox_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub template_id: &'a str,
    /// 32 hexadecimal digits; absent leaves the id as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Where the guest finds the service that takes its events.
    #[serde(rename = "hyperloopIP")]
    pub hyperloop_ip: Ipv4Addr,
    /// Certificates that the guest's programs are to trust beside the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<&'a str>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("the agent did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the agent's token is not one that a header can carry")]
    Token,
    #[error("connect to the agent")]
    Connect(#[source] std::io::Error),
    #[error("talk to the agent")]
    Http(#[source] hyper::Error),
    #[error("the agent refused with status {status}: {body}")]
    Refused { status: u16, body: String },
}

/// The present, as the agent reads it.
pub(crate) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// Fresh seed for the guest's random generator, as base64.
pub(crate) fn entropy() -> String {
    let mut seed = [0u8; 64];
    getrandom::fill(&mut seed).expect("the kernel's random source answers after boot");
    STANDARD.encode(seed)
}

/// 32 random hexadecimal digits.
pub(crate) fn machine_id() -> String {
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).expect("the kernel's random source answers after boot");
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends the settings and waits for the answer; returns the agent's version.
/// `token` is what an agent expects that was saved with another sandbox's.
pub(crate) async fn init(
    address: SocketAddr,
    init: &Init<'_>,
    token: Option<&str>,
    limit: Duration,
) -> Result<String, InitError> {
    let body = serde_json::to_vec(init).expect("the settings are plain strings and maps");
    tokio::time::timeout(limit, attempt(address, "/init", body.into(), token))
        .await
        .unwrap_or(Err(InitError::Timeout(limit)))
}

/// The same for a guest that is only booting: asked again until it listens, each time
/// with the time of that moment, which is what the guest's clock is set to.
pub(crate) async fn init_booting(
    address: SocketAddr,
    init: &Init<'_>,
    limit: Duration,
) -> Result<String, InitError> {
    /// Before the guest has its address nothing answers a connection at all.
    const ATTEMPT: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(50);
    let mut init = init.clone();
    let asking = async {
        loop {
            init.timestamp = now();
            let body = serde_json::to_vec(&init).expect("plain strings and maps");
            let attempt = attempt(address, "/init", body.into(), None);
            match tokio::time::timeout(ATTEMPT, attempt).await {
                Ok(Ok(version)) => return Ok(version),
                Ok(Err(refused @ InitError::Refused { .. })) => return Err(refused),
                Ok(Err(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::time::timeout(limit, asking)
        .await
        .unwrap_or(Err(InitError::Timeout(limit)))
}

/// Lets a running guest trust `pem` beside what it trusts already.
pub(crate) async fn trust(
    address: SocketAddr,
    pem: &str,
    token: Option<&str>,
    limit: Duration,
) -> Result<(), InitError> {
    let body = Bytes::from(serde_json::json!({"caBundle": pem}).to_string());
    tokio::time::timeout(limit, attempt(address, "/init", body, token))
        .await
        .unwrap_or(Err(InitError::Timeout(limit)))
        .map(drop)
}

/// Asks the agent for one of its operations around snapshots, such as `/freeze`.
pub(crate) async fn operate(
    address: SocketAddr,
    path: &'static str,
    token: Option<&str>,
    limit: Duration,
) -> Result<(), InitError> {
    tokio::time::timeout(limit, attempt(address, path, Bytes::new(), token))
        .await
        .unwrap_or(Err(InitError::Timeout(limit)))
        .map(drop)
}

async fn attempt(
    address: SocketAddr,
    path: &'static str,
    body: Bytes,
    token: Option<&str>,
) -> Result<String, InitError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(InitError::Connect)?;
    tracing::debug!(%address, "connected to the agent");
    stream.set_nodelay(true).map_err(InitError::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(InitError::Http)?;
    let mut request = http::Request::post(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        let mut value = http::HeaderValue::from_str(token).map_err(|_| InitError::Token)?;
        value.set_sensitive(true);
        request = request.header("x-access-token", value);
    }
    let request = request
        .body(Full::new(body))
        .expect("the request's parts are constants, an address and a checked value");
    // The driver lives as long as this exchange: dropping the set aborts it.
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(InitError::Http)?;
    let status = response.status();
    let version = response
        .headers()
        .get("x-envd-version")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    if status.is_success() {
        return Ok(version);
    }
    // The guest may be hostile: its words are bounded before they are kept.
    let body = http_body_util::Limited::new(response.into_body(), 4096);
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    Err(InitError::Refused {
        status: status.as_u16(),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
