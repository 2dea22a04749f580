//! Which request goes where, and which are let in.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use connectrpc::{CompressionPolicy, ConnectRpcService, DeadlinePolicy, Limits};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tower::Service as _;

use super::internal;
use super::{HttpError, Response, caller, cors, init, leftover, timeout, tunnel, upgrade};
use crate::Agent;
use crate::files::access::{self, FileQuery, Operation};
use crate::files::compose::{self, ComposeRequest};
use crate::files::service::FilesystemService;
use crate::files::{download, upload};
use crate::process::service::ProcessService;
use crate::telemetry;

/// The greatest RPC message. Arguments and inputs are meant, not files.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
const START: &str = "/process.Process/Start";

/// Answers requests; cheap to clone.
#[derive(Clone)]
pub struct Routes {
    agent: Arc<Agent>,
    rpc: ConnectRpcService,
}

impl Routes {
    pub fn new(agent: Arc<Agent>) -> Self {
        let router = connectrpc::Router::new()
            .add_service(Arc::new(ProcessService(Arc::clone(&agent))))
            .add_service(Arc::new(FilesystemService(Arc::clone(&agent))));
        let limits = Limits::default()
            .with_max_message_size(MAX_MESSAGE_BYTES)
            .with_max_request_body_size(MAX_MESSAGE_BYTES + 1024);
        let rpc = ConnectRpcService::new(router)
            .with_limits(limits)
            // The link is a virtual one; time spent on compressing is lost.
            .with_compression_policy(CompressionPolicy::disabled())
            .with_deadline_policy(DeadlinePolicy::new().with_enforce_on_streams(true));
        Self { agent, rpc }
    }

    /// Never fails: every failure is a response.
    pub async fn answer<B>(&self, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (request, leftover) = leftover::lend(request);
        let answer = match request.method() {
            &Method::OPTIONS => Ok(cors::options(request.headers())),
            _ => self.dispatch(request).await,
        };
        leftover.read().await;
        let mut answer = answer.unwrap_or_else(HttpError::into_response);
        cors::open_to_any_origin(&mut answer);
        answer
    }

    /// Answers a request of a connection, which may also become a tunnel.
    pub async fn serve(&self, request: Request<Incoming>) -> Response {
        if request.method() != Method::CONNECT {
            return self.answer(request).await;
        }
        let settings = self.agent.settings.snapshot();
        if !settings.token_accepts(caller::presented_token(request.headers())) {
            return unauthorized().into_response();
        }
        let (tasks, stop) = (&self.agent.tasks, &self.agent.stop);
        match tunnel::open(request, tasks, stop).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        }
    }

    async fn dispatch<B>(&self, request: Request<B>) -> Result<Response, HttpError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET | &Method::HEAD, "/health") => return Ok(super::no_content()),
            (&Method::POST, "/init") => return self.init(request).await,
            (_, "/files") => return self.files(request).await,
            _ => {}
        }
        let settings = self.agent.settings.snapshot();
        if !settings.token_accepts(caller::presented_token(request.headers())) {
            return Err(unauthorized());
        }
        match (request.method(), path) {
            (&Method::GET, "/envs") => {
                let env: std::collections::BTreeMap<_, _> = settings.environment().collect();
                Ok(super::json(StatusCode::OK, &env))
            }
            (&Method::GET, "/metrics") => match self.agent.meter.read() {
                Ok(metrics) => Ok(super::json(StatusCode::OK, &metrics)),
                Err(error) => Err(HttpError::internal(format!("cannot read metrics: {error}"))),
            },
            (&Method::POST, "/files/compose") => self.compose(request).await,
            (&Method::GET, "/telemetry") => {
                internal::admit(&self.agent, request.extensions().get())?;
                telemetry::stream::answer(&self.agent, &request)
            }
            (&Method::POST, "/upgrade") => {
                internal::admit(&self.agent, request.extensions().get())?;
                upgrade::handle(&self.agent, request.into_body()).await
            }
            (
                _,
                "/telemetry" | "/upgrade" | "/health" | "/init" | "/envs" | "/metrics"
                | "/files/compose",
            ) => Err(method_not_allowed()),
            (&Method::POST, path) if internal::Operation::of_path(path).is_some() => {
                internal::admit(&self.agent, request.extensions().get())?;
                match internal::Operation::of_path(path) {
                    Some(operation) => internal::handle(&self.agent, operation).await,
                    None => Err(HttpError::not_found(format!("no route {path}"))),
                }
            }
            (_, path) if is_rpc(path) => Ok(self.call(request).await),
            _ => Err(HttpError::not_found(format!("no route {path}"))),
        }
    }

    async fn call<B>(&self, mut request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        if request.uri().path() == START {
            if let Some(limit) = timeout::take(request.headers_mut()) {
                request.extensions_mut().insert(limit);
            }
        } else {
            timeout::drop_zero(request.headers_mut());
        }
        let mut rpc = self.rpc.clone();
        match rpc.call(request).await {
            Ok(response) => {
                response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
            }
            Err(never) => match never {},
        }
    }

    async fn files<B>(&self, request: Request<B>) -> Result<Response, HttpError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (parts, body) = request.into_parts();
        let operation = match parts.method {
            Method::GET | Method::HEAD => Operation::Read,
            Method::POST => Operation::Write,
            _ => return Err(method_not_allowed()),
        };
        let query = FileQuery::parse(parts.uri.query().unwrap_or(""));
        let settings = self.agent.settings.snapshot();
        access::authorize(
            &settings,
            &parts.headers,
            &query,
            operation,
            SystemTime::now(),
        )?;
        let actor = access::actor(&self.agent, &settings, query.username.as_deref())?;
        match operation {
            Operation::Read => {
                download::download(&actor, &query, &parts.method, &parts.headers).await
            }
            Operation::Write => {
                let written = upload::upload(&actor, &query, &parts.headers, body).await?;
                Ok(super::json(StatusCode::OK, &written))
            }
        }
    }

    async fn compose<B>(&self, request: Request<B>) -> Result<Response, HttpError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let body = read_body(request.into_body()).await?;
        let request: ComposeRequest = serde_json::from_slice(&body)
            .map_err(|error| HttpError::bad_request(format!("invalid body: {error}")))?;
        let settings = self.agent.settings.snapshot();
        let actor = access::actor(&self.agent, &settings, request.username.as_deref())?;
        let info = compose::compose(&actor, request).await?;
        Ok(super::json(StatusCode::OK, &info))
    }

    async fn init<B>(&self, request: Request<B>) -> Result<Response, HttpError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        internal::admit(&self.agent, request.extensions().get())?;
        let (parts, body) = request.into_parts();
        let body = read_body(body).await?;
        init::handle(&self.agent, &parts.headers, &body).await
    }
}

/// A body that is small by its nature.
async fn read_body<B>(body: B) -> Result<Bytes, HttpError>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let body = Limited::new(body, init::MAX_BODY_BYTES).collect().await;
    let body =
        body.map_err(|error| HttpError::bad_request(format!("cannot read the body: {error}")))?;
    Ok(body.to_bytes())
}

fn unauthorized() -> HttpError {
    HttpError::unauthorized(
        "unauthorized access, please provide a valid access token or method signing if supported",
    )
}

fn method_not_allowed() -> HttpError {
    HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}

fn is_rpc(path: &str) -> bool {
    path.starts_with("/process.Process/") || path.starts_with("/filesystem.Filesystem/")
}
