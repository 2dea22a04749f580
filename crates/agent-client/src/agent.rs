//! What the host of a VM asks its agent for: to take settings, to hold the guest
//! still, to read and write single files as root. One connection per request.

use crate::{
    AGENT_PORT, AgentClient, Error, Result,
    exchange::{Answer, Body, exchange, full},
    transport,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, Method, Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

/// Body of `/init`: what is absent leaves the agent as it is. The names are the agent's
/// contract; `entropy`, `hostname`, `sandboxId` and `templateId` are Hearth's own. The
/// time of the call is added when it is made: the guest's clock is set to it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Init<'a> {
    /// Variables of every command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<&'a BTreeMap<String, String>>,
    /// The token that the agent asks for from now on; the empty one is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<&'a str>,
    /// Whom commands run as unless they say.
    pub default_user: &'a str,
    /// Where commands run unless they say.
    pub default_workdir: &'a str,
    /// Name of the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<&'a str>,
    /// Base64 of bytes for the guest kernel's random generator.
    pub entropy: String,
    /// ID of the sandbox, for its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<&'a str>,
    /// ID of the template, for its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<&'a str>,
    /// 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Where the guest finds the service that takes its events.
    #[serde(rename = "hyperloopIP", skip_serializing_if = "Option::is_none")]
    pub hyperloop_ip: Option<Ipv4Addr>,
    /// Certificates, in PEM, that the guest's programs trust besides the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<&'a str>,
    /// All volumes that the guest is to have mounted; others of the node's are taken
    /// away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

/// A volume to mount in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeMount {
    /// Address and name: `192.0.2.1:/data`.
    pub nfs_target: String,
    /// Where: absolute.
    pub path: String,
}

impl<'a> Init<'a> {
    /// Defaults of commands, and a fresh seed for the guest's random generator.
    #[must_use]
    pub fn new(default_user: &'a str, default_workdir: &'a str) -> Self {
        Self {
            env_vars: None,
            access_token: None,
            default_user,
            default_workdir,
            hostname: None,
            entropy: STANDARD.encode(random::<64>()),
            sandbox_id: None,
            template_id: None,
            machine_id: None,
            hyperloop_ip: None,
            ca_bundle: None,
            volume_mounts: None,
        }
    }

    /// Makes the guest another machine than the one that was saved.
    #[must_use]
    pub fn with_new_machine_id(mut self) -> Self {
        let id = random::<16>();
        self.machine_id = Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        self
    }

    fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            /// RFC 3339, with nanoseconds.
            timestamp: String,
            #[serde(flatten)]
            settings: &'a Init<'a>,
        }
        let body = Body {
            timestamp: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
            settings: self,
        };
        serde_json::to_vec(&body).expect("the settings are plain strings and maps")
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot");
    bytes
}

/// What the agent does around snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Holds the guest's programs.
    Freeze,
    /// Undoes [`Self::Freeze`].
    Unfreeze,
    /// Writes everything to the disk and holds the file system still.
    FsFreeze,
    /// Undoes [`Self::FsFreeze`].
    FsThaw,
}

impl Operation {
    /// The route that does it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Freeze => "/freeze",
            Self::Unfreeze => "/unfreeze",
            Self::FsFreeze => "/fsfreeze",
            Self::FsThaw => "/fsthaw",
        }
    }
}

/// The agent of one guest, as its host reaches it.
#[derive(Clone, Debug)]
pub struct Agent {
    address: SocketAddr,
    token: Option<HeaderValue>,
}

impl Agent {
    /// The agent of the guest with this address, which asks for no token.
    #[must_use]
    pub fn new(guest: impl Into<IpAddr>) -> Self {
        Self::at(SocketAddr::new(guest.into(), AGENT_PORT))
    }

    /// An agent that listens elsewhere than in a guest.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            token: None,
        }
    }

    /// With the token that the agent asks for, if it asks for one.
    ///
    /// # Errors
    /// When no header can carry the token.
    pub fn with_token(mut self, token: Option<&str>) -> Result<Self> {
        self.token = token.map(transport::token_value).transpose()?;
        Ok(self)
    }

    /// Where the agent listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client with kept connections for processes and files. Each of its calls has to
    /// begin its answer within `timeout`.
    ///
    /// # Errors
    /// When the address makes no URL.
    pub fn client(&self, timeout: Duration) -> Result<AgentClient> {
        let base = format!("http://{}", self.address);
        AgentClient::direct(&base, self.token.clone(), timeout)
    }

    /// Hands over settings and waits for the answer; returns the agent's version. A
    /// restored guest takes the connection as soon as its processors run and answers
    /// when it is ready, so nothing polls.
    ///
    /// # Errors
    /// When the agent refuses or does not answer within `limit`.
    pub async fn init(&self, settings: &Init<'_>, limit: Duration) -> Result<String> {
        let request = post("/init", "application/json", full(settings.body()));
        Ok(self.call(request, limit).await?.version)
    }

    /// Lets a running guest trust `pem` besides what it trusts already.
    ///
    /// # Errors
    /// As [`Self::init`].
    pub async fn trust(&self, pem: &str, limit: Duration) -> Result<()> {
        let body = serde_json::json!({"caBundle": pem}).to_string();
        let request = post("/init", "application/json", full(body));
        self.call(request, limit).await.map(drop)
    }

    /// Asks for one of the operations around snapshots.
    ///
    /// # Errors
    /// As [`Self::init`].
    pub async fn operate(&self, operation: Operation, limit: Duration) -> Result<()> {
        let request = post(operation.path(), "application/json", full(Vec::new()));
        self.call(request, limit).await.map(drop)
    }

    /// Whether the agent is well.
    ///
    /// # Errors
    /// As [`Self::init`].
    pub async fn health(&self, limit: Duration) -> Result<()> {
        let request = request(Method::GET, "/health", full(Vec::new()));
        self.call(request, limit).await.map(drop)
    }

    /// Reads a text file of at most 4 MiB as root; `None` when there is none.
    ///
    /// # Errors
    /// As [`Self::init`], and [`Error::TooLarge`].
    pub async fn file_read(&self, path: &str, limit: Duration) -> Result<Option<String>> {
        let request = request(Method::GET, &root_file(path), full(Vec::new()));
        match self.call(request, limit).await {
            Ok(answer) => Ok(Some(String::from_utf8_lossy(&answer.body).into_owned())),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the guest's file `to` as root out of `from`, a file of the host.
    ///
    /// # Errors
    /// As [`Self::init`], and [`Error::Source`] when `from` cannot be opened.
    pub async fn file_send(&self, from: &Path, to: &str, limit: Duration) -> Result<()> {
        let file = tokio::fs::File::open(from).await.map_err(Error::Source)?;
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
        let body = StreamBody::new(stream.map_ok(Frame::data).boxed());
        let request = post(
            &root_file(to),
            "application/octet-stream",
            body.boxed_unsync(),
        );
        self.call(request, limit).await.map(drop)
    }

    async fn call(&self, request: Request<Body>, limit: Duration) -> Result<Answer> {
        let asking = exchange(self.address, self.token.as_ref(), request);
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or(Err(Error::Timeout(limit)))
    }
}

/// `path` is one of this file's constants, or has been encoded.
fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .expect("constant or encoded paths are paths")
}

fn post(path: &str, kind: &'static str, body: Body) -> Request<Body> {
    let mut request = request(Method::POST, path, body);
    let kind = HeaderValue::from_static(kind);
    request.headers_mut().insert(CONTENT_TYPE, kind);
    request
}

fn root_file(path: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("path", path)
        .append_pair("username", "root")
        .finish();
    format!("/files?{query}")
}

#[cfg(test)]
mod tests;
