//! The agent of one guest over kept connections, directly or through the edge.

use crate::Result;
use crate::terminal::PtySize;
use crate::transport::{self, ACCESS_TOKEN, HttpPool};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connectrpc::Protocol;
use connectrpc::client::{CallOptions, ClientBody, ClientConfig, ServiceTransport, full_body};
use hearth_guest_proto::process as proto;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use std::time::Duration;

pub(crate) type ProcessClient = proto::ProcessClient<ServiceTransport<HttpPool>>;

/// Speaks to one guest's agent. Clones share the connections.
#[derive(Clone)]
pub struct AgentClient {
    pub(crate) pool: HttpPool,
    pub(crate) base: Uri,
    pub(crate) timeout: Duration,
    pub(crate) headers: HeaderMap,
    processes: ProcessClient,
}

/// A process that the agent started and that still runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its number in the guest.
    pub pid: u32,
    /// The name that whoever started it gave it.
    pub tag: Option<String>,
    /// The program.
    pub command: String,
    /// Arguments, without the program.
    pub args: Vec<String>,
}

/// The signals that the agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`.
    Terminate,
    /// `SIGKILL`.
    Kill,
}

impl AgentClient {
    /// Speaks to the server at `base` over connections of `pool`; every request has
    /// `headers`, which say where an edge is to send it, and the access token.
    #[must_use]
    pub fn new(
        pool: HttpPool,
        base: Uri,
        mut headers: HeaderMap,
        access_token: Option<HeaderValue>,
        timeout: Duration,
    ) -> Self {
        if let Some(token) = access_token {
            headers.insert(ACCESS_TOKEN, token);
        }
        let config = ClientConfig::new(base.clone())
            .with_protocol(Protocol::Connect)
            .json()
            .with_default_headers(headers.clone());
        Self {
            processes: ProcessClient::new(ServiceTransport::new(pool.clone()), config),
            pool,
            base,
            timeout,
            headers,
        }
    }

    /// Speaks to an agent at `base_url` itself, without an edge between. Each call has to
    /// begin its answer within `timeout`.
    pub(crate) fn direct(
        base_url: &str,
        access_token: Option<HeaderValue>,
        timeout: Duration,
    ) -> Result<Self> {
        let base = transport::parse_base(base_url)?;
        let headers = HeaderMap::new();
        Ok(Self::new(
            transport::pool(),
            base,
            headers,
            access_token,
            timeout,
        ))
    }

    /// Whether the agent answers. False when the edge says that the sandbox or its
    /// agent cannot be reached.
    pub async fn health(&self) -> Result<bool> {
        let request = self.request(Method::GET, "/health", full_body(Vec::new().into()))?;
        let response = transport::send(&self.pool, request, self.timeout).await?;
        if response.status() == 502 {
            return Ok(false);
        }
        transport::accept(response, self.timeout).await?;
        Ok(true)
    }

    /// The processes that the agent started and that still run.
    pub async fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let options = self.unary_options();
        let answer = self
            .process_client()
            .list_with_options(proto::ListRequest::default(), options)
            .await?
            .into_owned();
        let processes = answer.processes.into_iter().map(|process| {
            let config = process.config.as_option().cloned().unwrap_or_default();
            ProcessInfo {
                pid: process.pid,
                tag: process.tag,
                command: config.cmd,
                args: config.args,
            }
        });
        Ok(processes.collect())
    }

    /// Sends a signal to a process. False when there is no such process.
    pub async fn signal(&self, pid: u32, signal: Signal) -> Result<bool> {
        let signal = match signal {
            Signal::Terminate => proto::Signal::SIGNAL_SIGTERM,
            Signal::Kill => proto::Signal::SIGNAL_SIGKILL,
        };
        let request = proto::SendSignalRequest {
            process: selector(pid).into(),
            signal: signal.into(),
            ..Default::default()
        };
        let options = self.unary_options();
        let sent = self
            .process_client()
            .send_signal_with_options(request, options)
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) if error.code == connectrpc::ErrorCode::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes to a process' standard input.
    pub async fn send_stdin(&self, pid: u32, bytes: Vec<u8>) -> Result<()> {
        self.send_input(
            pid,
            proto::__buffa::oneof::process_input::Input::Stdin(bytes),
        )
        .await
    }

    /// Types into a process' terminal.
    pub async fn send_pty(&self, pid: u32, bytes: Vec<u8>) -> Result<()> {
        self.send_input(pid, proto::__buffa::oneof::process_input::Input::Pty(bytes))
            .await
    }

    /// Tells a process' terminal its new size.
    ///
    /// # Errors
    /// When the process has ended, or has no terminal.
    pub async fn resize_pty(&self, pid: u32, size: PtySize) -> Result<()> {
        let request = proto::UpdateRequest {
            process: selector(pid).into(),
            pty: size.message().into(),
            ..Default::default()
        };
        let options = self.unary_options();
        self.process_client()
            .update_with_options(request, options)
            .await?;
        Ok(())
    }

    /// Ends a process' standard input.
    pub async fn close_stdin(&self, pid: u32) -> Result<()> {
        let request = proto::CloseStdinRequest {
            process: selector(pid).into(),
            ..Default::default()
        };
        let options = self.unary_options();
        self.process_client()
            .close_stdin_with_options(request, options)
            .await?;
        Ok(())
    }

    async fn send_input(
        &self,
        pid: u32,
        input: proto::__buffa::oneof::process_input::Input,
    ) -> Result<()> {
        let request = proto::SendInputRequest {
            process: selector(pid).into(),
            input: proto::ProcessInput {
                input: Some(input),
                ..Default::default()
            }
            .into(),
            ..Default::default()
        };
        let options = self.unary_options();
        self.process_client()
            .send_input_with_options(request, options)
            .await?;
        Ok(())
    }

    pub(crate) fn process_client(&self) -> &ProcessClient {
        &self.processes
    }

    fn unary_options(&self) -> CallOptions {
        CallOptions::default().with_timeout(self.timeout)
    }

    /// Sends a request and reads the whole answer, of at most `limit` bytes.
    ///
    /// # Errors
    /// When it is refused, does not come in time or is longer.
    pub async fn exchange(&self, request: Request<ClientBody>, limit: usize) -> Result<Bytes> {
        let response = transport::send(&self.pool, request, self.timeout).await?;
        let response = transport::accept(response, self.timeout).await?;
        transport::read(response, limit, self.timeout).await
    }

    /// A request with the headers that all have. `path` begins with `/`.
    ///
    /// # Errors
    /// When the path makes no URL.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        body: ClientBody,
    ) -> Result<Request<ClientBody>> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = transport::join(&self.base, path)?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }
}

/// The header that names the user for the agent.
pub(crate) fn user_header(user: &str) -> (HeaderName, String) {
    let credentials = STANDARD.encode(format!("{user}:"));
    (AUTHORIZATION, format!("Basic {credentials}"))
}

fn selector(pid: u32) -> proto::ProcessSelector {
    proto::ProcessSelector {
        selector: Some(proto::__buffa::oneof::process_selector::Selector::Pid(pid)),
        ..Default::default()
    }
}
