//! The service that a sandbox finds at `events.e2b.local`: who it is, and a place
//! for its log lines. The caller is known by its address; there is nothing to
//! present, and nothing of another sandbox to be had.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guests::{Guest, Guests};

/// Largest log message.
const LONGEST_LOG: usize = 64 * 1024;
/// Connections at a time, of all guests.
const MOST_CONNECTIONS: usize = 512;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Where log lines of sandboxes go.
pub trait LogSink: std::fmt::Debug + Send + Sync {
    /// Takes one message of the sandbox's, a JSON value. Must not block.
    fn log(&self, guest: &Guest, message: serde_json::Value);
}

/// Writes log lines into the daemon's own log.
#[derive(Debug, Default)]
pub struct DaemonLog;

impl LogSink for DaemonLog {
    fn log(&self, guest: &Guest, message: serde_json::Value) {
        let sandbox = &guest.identity.sandbox_id;
        tracing::info!(target: "sandbox", %sandbox, %message, "log");
    }
}

/// The service.
#[derive(Debug)]
pub(crate) struct Events {
    guests: Arc<Guests>,
    sink: Arc<dyn LogSink>,
    connections: Arc<Semaphore>,
}

impl Events {
    pub(crate) fn new(guests: Arc<Guests>, sink: Arc<dyn LogSink>) -> Self {
        Self {
            guests,
            sink,
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        }
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, SocketAddr::V4(from))) = accepted else {
                crate::pause_after_failed_accept().await;
                continue;
            };
            let (Some(guest), Ok(permit)) = (
                self.guests.find(*from.ip()),
                Arc::clone(&self.connections).try_acquire_owned(),
            ) else {
                continue;
            };
            let (this, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                let _permit = permit;
                let gone = guest.gone.clone();
                let service = service_fn(|request| {
                    let (this, guest) = (Arc::clone(&this), Arc::clone(&guest));
                    async move { Ok::<_, Infallible>(this.answer(&guest, request).await) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .title_case_headers(true)
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = gone.cancelled() => {}
                    _ = serving => {}
                }
            });
        }
    }

    async fn answer(&self, guest: &Guest, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/me") => json(
                StatusCode::OK,
                &serde_json::json!({"sandboxID": guest.identity.sandbox_id}),
            ),
            (&Method::GET, "/health") => empty(StatusCode::NO_CONTENT),
            (&Method::POST, "/logs") => self.log(guest, request.into_body()).await,
            (_, "/me" | "/logs" | "/health") => failure(StatusCode::METHOD_NOT_ALLOWED),
            _ => failure(StatusCode::NOT_FOUND),
        }
    }

    async fn log(&self, guest: &Guest, body: Incoming) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(body, LONGEST_LOG).collect().await else {
            return failure(StatusCode::PAYLOAD_TOO_LARGE);
        };
        match serde_json::from_slice::<serde_json::Value>(&body.to_bytes()) {
            Ok(message) if message.is_object() || message.is_array() => {
                self.sink.log(guest, message);
                empty(StatusCode::CREATED)
            }
            _ => failure(StatusCode::BAD_REQUEST),
        }
    }
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

fn failure(status: StatusCode) -> Response<Full<Bytes>> {
    let message = status.canonical_reason().unwrap_or("failed");
    json(
        status,
        &serde_json::json!({"code": status.as_u16(), "message": message}),
    )
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
