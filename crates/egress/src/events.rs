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

/// Forgets what is logged.
#[derive(Debug, Default)]
pub struct NoLog;

impl LogSink for NoLog {
    fn log(&self, _guest: &Guest, _message: serde_json::Value) {}
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
            let Some(guest) = self.guests.find(*from.ip()) else {
                continue;
            };
            // The guest's own share first: past it, nothing of the others' is taken.
            let own = Arc::clone(&guest.event_connections).try_acquire_owned();
            let Ok(permits) =
                own.and_then(|own| Ok((own, Arc::clone(&self.connections).try_acquire_owned()?)))
            else {
                continue;
            };
            let (this, stop) = (Arc::clone(&self), stop.clone());
            tasks.spawn(async move {
                let _permits = permits;
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
        let body = body.to_bytes();
        if let Err(wait) = guest.log_allowance.take(body.len()) {
            let mut response = failure(StatusCode::TOO_MANY_REQUESTS);
            let seconds = wait.as_secs().saturating_add(1);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
            return response;
        }
        match serde_json::from_slice::<serde_json::Value>(&body) {
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use hearth_ids::SandboxId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::guests::Identity;
    use crate::rules::Rules;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<(SandboxId, usize)>>);

    impl LogSink for Kept {
        fn log(&self, guest: &Guest, message: serde_json::Value) {
            let kept = (guest.identity.sandbox_id.clone(), message.to_string().len());
            self.0.lock().unwrap().push(kept);
        }
    }

    async fn post(server: SocketAddr, from: Ipv4Addr, bytes: usize) -> String {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(server).await.unwrap();
        let body = format!("{{\"message\":\"{}\"}}", "x".repeat(bytes));
        let head = format!(
            "POST /logs HTTP/1.1\r\nhost: events\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_guest_that_logs_without_end_is_slowed_down_alone() {
        const NOISY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
        const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
        let guests = Arc::new(Guests::default());
        for address in [NOISY, OTHER] {
            let identity = Identity::new(SandboxId::random());
            guests.enter(address, identity, Rules::parse(None, "").unwrap());
        }
        let sink = Arc::new(Kept::default());
        let kept: Arc<dyn LogSink> = Arc::clone(&sink) as _;
        let events = Arc::new(Events::new(Arc::clone(&guests), kept));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(events.serve(listener, tasks.clone(), stop.clone()));

        let mut refused = String::new();
        for _ in 0..40 {
            let answer = post(server, NOISY, 60_000).await;
            if answer.starts_with("HTTP/1.1 429") {
                refused = answer;
                break;
            }
            assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        }
        assert!(refused.contains("Retry-After: "), "{refused}");
        let noisy = guests.find(NOISY).unwrap().identity.sandbox_id.clone();
        let bytes: usize = {
            let kept = sink.0.lock().unwrap();
            kept.iter()
                .filter(|(id, _)| *id == noisy)
                .map(|(_, bytes)| bytes)
                .sum()
        };
        assert!(bytes < 3 << 20, "{bytes}");
        assert!(post(server, OTHER, 100).await.starts_with("HTTP/1.1 201"));
        stop.cancel();
    }
}
