//! An agent of the test's own, on a free port of the loopback, and ways to
//! speak to it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::Protocol;
use connectrpc::client::{ClientConfig, HttpClient};
use hearth_guest::{Config, Server};
use hearth_guest_proto::filesystem::FilesystemClient;
use hearth_guest_proto::process::__buffa::oneof::process_event::Event;
use hearth_guest_proto::process::__buffa::oneof::process_event::data_event::Output;
use hearth_guest_proto::process::process_event::EndEvent;
use hearth_guest_proto::process::{ProcessClient, ProcessConfig, ProcessEvent, StartRequest};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes this long on a machine that works.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Agent {
    pub address: SocketAddr,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    pub fn start() -> Self {
        let stop = CancellationToken::new();
        let (sender, receiver) = std::sync::mpsc::channel();
        let token = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let config = Config {
                    listen: "127.0.0.1:0".parse().expect("an address"),
                    user_root: "/".into(),
                    manage_system: false,
                    log: std::sync::Arc::default(),
                };
                let server = Server::bind(config, token)
                    .await
                    .expect("the agent listens");
                sender
                    .send(server.address().expect("an address"))
                    .expect("the test waits");
                server.run().await.expect("the agent runs");
            });
        });
        let address = receiver.recv_timeout(LIMIT).expect("the agent starts");
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> http::Uri {
        format!("http://{}", self.address).parse().expect("a URL")
    }

    pub fn config(&self) -> ClientConfig {
        ClientConfig::new(self.url())
            .with_protocol(Protocol::Connect)
            .json()
    }

    pub fn processes(&self) -> ProcessClient<HttpClient> {
        ProcessClient::new(HttpClient::plaintext(), self.config())
    }

    pub fn files(&self) -> FilesystemClient<HttpClient> {
        FilesystemClient::new(HttpClient::plaintext(), self.config())
    }

    /// One plain request.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Bytes> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let response = client.request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        http::Response::from_parts(parts, body)
    }

    pub async fn init(&self, body: serde_json::Value) -> http::Response<Bytes> {
        self.request("POST", "/init", &[], body.to_string()).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the agent failed"
            );
        }
    }
}

/// A directory that anybody may use.
pub struct Scratch(pub tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        // Not on a tmpfs, which may not keep extended attributes.
        let directory = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let mode = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), mode).expect("a mode");
        Self(directory)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    pub fn url(&self, name: &str) -> String {
        format!("/files?path={}", self.path(name))
    }
}

/// The type of a raw upload.
pub const RAW: (&str, &str) = ("content-type", "application/octet-stream");

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs a test's future with a bound.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(async { tokio::time::timeout(LIMIT, future).await.expect("in time") })
}

pub fn shell(script: &str) -> StartRequest {
    StartRequest {
        process: buffa::MessageField::some(ProcessConfig {
            cmd: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            ..Default::default()
        }),
        stdin: Some(false),
        ..Default::default()
    }
}

/// What a process stream told.
#[derive(Debug, Default)]
pub struct Told {
    pub pid: u32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub pty: Vec<u8>,
    pub keepalives: u32,
    pub end: Option<EndEvent>,
}

impl Told {
    pub fn take(&mut self, event: ProcessEvent) {
        assert!(self.end.is_none(), "nothing follows the end");
        match event.event.expect("an event") {
            Event::Start(start) => self.pid = start.pid,
            Event::Data(data) => match data.output.expect("output") {
                Output::Stdout(bytes) => self.stdout.extend(bytes),
                Output::Stderr(bytes) => self.stderr.extend(bytes),
                Output::Pty(bytes) => self.pty.extend(bytes),
            },
            Event::End(end) => self.end = Some(*end),
            Event::Keepalive(_) => self.keepalives += 1,
        }
    }

    pub fn exit_code(&self) -> i32 {
        self.end.as_ref().expect("an end").exit_code
    }
}

/// Reads a process stream to its end. `Err` is the stream's error.
#[macro_export]
macro_rules! told {
    ($stream:expr) => {{
        let mut stream = $stream;
        let mut told = $crate::common::Told::default();
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    let message = message.to_owned_message();
                    told.take(message.event.into_option().expect("an event"));
                }
                Ok(None) => break Ok(told),
                Err(error) => break Err((told, error)),
            }
        }
    }};
}
