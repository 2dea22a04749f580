//! Serving members: TLS 1.3 and HTTP/2, within bounds, until told to stop.
//!
//! One task per connection. A handshake has ten seconds; a connection that says nothing is
//! asked whether it lives; one without a certificate has a minute, and there are few of them
//! ([`Bounds`]). One with a certificate lasts a day: the client then opens another, which
//! shows the certificate as it has been renewed. At the stop open calls may end, for as long
//! as the caller waits.

use crate::unauthenticated::{Pending, Unauthenticated};
use crate::{Member, Peer};
use axum::Extension;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of a listener at a time. A cluster of a thousand nodes has one of each, and
/// some that are remade.
pub const MAX_CONNECTIONS: usize = 2048;
/// Who shows no certificate has come to join, and is done by then.
const UNAUTHENTICATED_TIME: Duration = Duration::from_secs(60);
const MAX_CALLS_PER_CONNECTION: u32 = 1024;
/// Calls at a time of who has shown no certificate: it wants to join.
const UNAUTHENTICATED_CALLS: u32 = 2;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener grants.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long a connection takes new calls. Much shorter than a certificate's life: who
    /// renews its own shows it at the next connection.
    pub connection_age: Duration,
    /// Connections at a time that have not shown a certificate, or not yet.
    pub unauthenticated: usize,
    /// The same, of one address.
    pub unauthenticated_per_address: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connection_age: Duration::from_secs(24 * 3600),
            unauthenticated: 256,
            unauthenticated_per_address: 16,
        }
    }
}

/// Who sent a request: an extension of each that [`serve`] hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Address of the other end.
    pub address: SocketAddr,
    /// Who that is; nobody where no certificate was asked for and none was shown.
    pub peer: Option<Peer>,
}

/// Lets the control plane's requests pass alone: middleware for what [`serve`] serves.
pub async fn control_only(request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Connection>();
    let peer = connection.and_then(|connection| connection.peer);
    match peer.map(|peer| (peer.member, peer.not_after)) {
        // A connection may outlive the certificate that it began with.
        Some((Member::Control, end)) if end > SystemTime::now() => next.run(request).await,
        _ => {
            let body = r#"{"code":"permission_denied","message":"only the control plane may"}"#;
            let kind = [(http::header::CONTENT_TYPE, "application/json")];
            (http::StatusCode::FORBIDDEN, kind, body).into_response()
        }
    }
}

/// Serves `service` on `listener` until `stop` fires and open requests have ended.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: axum::Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let unauthenticated =
        Unauthenticated::new(bounds.unauthenticated, bounds.unauthenticated_per_address);
    while let Some((stream, address, permit)) = next(&listener, &room, &stop).await {
        let Some(pending) = unauthenticated.admit(address.ip()) else {
            tracing::debug!(%address, "too many connections without a certificate");
            continue;
        };
        let (acceptor, service, stop) = (acceptor.clone(), service.clone(), stop.clone());
        let arrived = Arrived {
            stream,
            address,
            pending,
        };
        connections.spawn(async move {
            let age = bounds.connection_age;
            if let Err(error) = connection(arrived, &acceptor, service, age, stop).await {
                tracing::debug!(%error, %address, "connection of a cluster's member failed");
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let accept = async {
        let permit = Arc::clone(room).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, address)) => return Some((stream, address, permit)),
                Err(error) => {
                    tracing::debug!(%error, "accept of a cluster's member failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => None,
        accepted = accept => accepted,
    }
}

struct Arrived {
    stream: TcpStream,
    address: SocketAddr,
    pending: Pending,
}

async fn connection(
    arrived: Arrived,
    acceptor: &TlsAcceptor,
    service: axum::Router,
    age: Duration,
    stop: CancellationToken,
) -> io::Result<()> {
    let Arrived {
        stream,
        address,
        pending,
    } = arrived;
    stream.set_nodelay(true)?;
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let stream = handshake.await.map_err(|_| io::ErrorKind::TimedOut)??;
    let shown = stream.get_ref().1.peer_certificates();
    let peer = shown
        .and_then(<[_]>::first)
        .map(Peer::of)
        .transpose()
        .map_err(io::Error::other)?;
    let (pending, calls) = match peer {
        Some(_) => {
            drop(pending);
            (None, MAX_CALLS_PER_CONNECTION)
        }
        None => (Some(pending), UNAUTHENTICATED_CALLS),
    };
    let service = service.layer(Extension(Connection { address, peer }));
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(calls)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = until_draining(&stop, age) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = tokio::time::sleep(UNAUTHENTICATED_TIME), if pending.is_some() => return Ok(()),
    };
    served.map_err(io::Error::other)
}

/// Until no new calls are to be taken.
async fn until_draining(stop: &CancellationToken, age: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(age) => {}
    }
}
