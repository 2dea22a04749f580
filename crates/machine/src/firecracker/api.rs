//! A client of Firecracker's API: HTTP over a unix socket, one connection a request.
//!
//! Firecracker takes one request after the other and answers 204, 200 with a document, or
//! 400 with a `fault_message`, which is passed on as it is. An answer that is longer than
//! a limit, that is no HTTP or no document of the expected form, is an error of its own:
//! the process may have been taken over by its guest. Every request has a limit in time,
//! set by whoever sends it.
//!
//! Source: `src/firecracker/swagger/firecracker.yaml` of Firecracker.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// The longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 64 << 10;

/// Why a request has no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Firecracker's own words.
    #[error("{message} (status {status})")]
    Refused { status: u16, message: String },
    /// No connection can be made.
    #[error("connect to the API socket")]
    Connect(#[source] io::Error),
    /// The connection broke before the answer was whole.
    #[error("the connection closed before the answer")]
    Closed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not one of Firecracker's.
    #[error("an answer of no known form: {0}")]
    Garbage(String),
}

/// The API of one Firecracker process.
#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

/// What `GET /` tells.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) state: State,
    pub(super) vmm_version: String,
}

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum State {
    #[serde(rename = "Not started")]
    NotStarted,
    Running,
    Paused,
}

/// `PUT /machine-config`.
#[derive(Debug, Serialize)]
pub(super) struct MachineConfig {
    pub(super) vcpu_count: u32,
    pub(super) mem_size_mib: u64,
    pub(super) smt: bool,
    pub(super) track_dirty_pages: bool,
}

/// `PUT /boot-source`.
#[derive(Debug, Serialize)]
pub(super) struct BootSource<'a> {
    pub(super) kernel_image_path: &'a str,
    pub(super) initrd_path: &'a str,
    pub(super) boot_args: &'a str,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub(super) struct Drive<'a> {
    pub(super) drive_id: &'a str,
    pub(super) path_on_host: &'a str,
    pub(super) is_root_device: bool,
    pub(super) is_read_only: bool,
    pub(super) cache_type: &'static str,
    pub(super) io_engine: &'static str,
}

/// `PUT /network-interfaces/{iface_id}`.
#[derive(Debug, Serialize)]
pub(super) struct Interface<'a> {
    pub(super) iface_id: &'a str,
    pub(super) host_dev_name: &'a str,
    pub(super) guest_mac: &'a str,
}

/// `PUT /snapshot/create`.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotCreate<'a> {
    pub(super) snapshot_type: SnapshotType,
    pub(super) snapshot_path: &'a str,
    pub(super) mem_file_path: &'a str,
}

/// How much of the memory a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum SnapshotType {
    /// All of it.
    Full,
    /// What was written since the load, or since the last snapshot.
    Diff,
}

/// `PUT /snapshot/load`. The older name of the tracking of dirty pages is the one that
/// every version since 1.12 knows.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotLoad<'a> {
    pub(super) snapshot_path: &'a str,
    pub(super) mem_backend: MemoryBackend<'a>,
    pub(super) enable_diff_snapshots: bool,
    pub(super) resume_vm: bool,
    pub(super) network_overrides: Vec<NetworkOverride<'a>>,
}

/// The TAP device of an interface of a loaded VM.
#[derive(Debug, Serialize)]
pub(super) struct NetworkOverride<'a> {
    pub(super) iface_id: &'static str,
    pub(super) host_dev_name: &'a str,
}

/// Where a loaded memory comes from.
#[derive(Debug, Serialize)]
pub(super) struct MemoryBackend<'a> {
    pub(super) backend_type: &'static str,
    pub(super) backend_path: &'a str,
}

impl Api {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    pub(super) async fn instance(&self) -> Result<Instance, ApiError> {
        let answer = self.request(Method::GET, "/", None).await?;
        parse(&answer)
    }

    pub(super) async fn machine_config(&self, config: &MachineConfig) -> Result<(), ApiError> {
        self.put("/machine-config", config).await
    }

    pub(super) async fn boot_source(&self, source: &BootSource<'_>) -> Result<(), ApiError> {
        self.put("/boot-source", source).await
    }

    pub(super) async fn drive(&self, drive: &Drive<'_>) -> Result<(), ApiError> {
        self.put(&format!("/drives/{}", drive.drive_id), drive)
            .await
    }

    pub(super) async fn interface(&self, interface: &Interface<'_>) -> Result<(), ApiError> {
        let path = format!("/network-interfaces/{}", interface.iface_id);
        self.put(&path, interface).await
    }

    /// A source of entropy for the guest.
    pub(super) async fn entropy(&self) -> Result<(), ApiError> {
        self.put("/entropy", &serde_json::json!({})).await
    }

    pub(super) async fn start(&self) -> Result<(), ApiError> {
        let action = serde_json::json!({ "action_type": "InstanceStart" });
        self.put("/actions", &action).await
    }

    /// Pauses or resumes; fine when the VM is so already.
    pub(super) async fn set_paused(&self, paused: bool) -> Result<(), ApiError> {
        let state = if paused { "Paused" } else { "Resumed" };
        let body = encode(&serde_json::json!({ "state": state }))?;
        self.request(Method::PATCH, "/vm", Some(body))
            .await
            .map(drop)
    }

    pub(super) async fn snapshot_create(
        &self,
        snapshot: &SnapshotCreate<'_>,
    ) -> Result<(), ApiError> {
        self.put("/snapshot/create", snapshot).await
    }

    pub(super) async fn snapshot_load(&self, snapshot: &SnapshotLoad<'_>) -> Result<(), ApiError> {
        self.put("/snapshot/load", snapshot).await
    }

    async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), ApiError> {
        let body = encode(body)?;
        self.request(Method::PUT, path, Some(body)).await.map(drop)
    }

    /// Connects to the socket and to nothing else: its directory is the VM's user's, who
    /// could put a link to another one there.
    async fn connect(&self) -> io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::open(&self.socket, flags, Mode::empty())?;
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, ApiError> {
        let stream = self.connect().await.map_err(ApiError::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| ApiError::Garbage(error.to_string()))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT);
            let body = body.collect().await.map_err(ApiError::Closed)?.to_bytes();
            accept(status, body)
        };
        // Both in this task: when it is given up, so is the connection.
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => answer,
            ended = connection => match ended {
                Ok(()) => answered.await,
                Err(error) => Err(failed(error)),
            },
        }
    }
}

fn accept(status: StatusCode, body: Bytes) -> Result<Bytes, ApiError> {
    #[derive(Deserialize)]
    struct Fault {
        fault_message: String,
    }
    match status {
        StatusCode::OK | StatusCode::NO_CONTENT => Ok(body),
        _ => Err(ApiError::Refused {
            status: status.as_u16(),
            message: match serde_json::from_slice::<Fault>(&body) {
                Ok(fault) => fault.fault_message,
                Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
            },
        }),
    }
}

fn failed(error: hyper::Error) -> ApiError {
    if error.is_parse() {
        ApiError::Garbage(error.to_string())
    } else {
        ApiError::Closed(error.into())
    }
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(|error| ApiError::Garbage(error.to_string()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Garbage(error.to_string()))
}

#[cfg(test)]
mod tests;
