//! Accepting connections. Each has a task of its own, owned by the agent's
//! tracker; their number is bounded, further ones wait to be accepted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::internal::Peer;
use super::route::Routes;

/// Connections that are served at once.
const MAX_CONNECTIONS: usize = 4096;
/// A connection on which no request begins for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(640);
/// Pause after a failed accept, which is nearly always a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`; open connections are then dropped with their tasks. When a
/// handover begins it accepts no more, lets connections finish what they do, and
/// gives the listening socket back.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    connections: TaskTracker,
    handover: CancellationToken,
    stop: CancellationToken,
) -> TcpListener {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .keep_alive(true)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024);
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = handover.cancelled() => return listener,
            () = stop.cancelled() => return listener,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = handover.cancelled() => return listener,
            () = stop.cancelled() => return listener,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, Peer(peer)),
            Err(error) => {
                log_accept_error(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (builder, routes) = (builder.clone(), routes.clone());
        let (handover, stop) = (handover.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            let service = service_fn(move |mut request: http::Request<Incoming>| {
                request.extensions_mut().insert(peer);
                let routes = routes.clone();
                async move { Ok::<_, std::convert::Infallible>(routes.serve(request).await) }
            });
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                // Errors here are clients that went away.
                _ = connection.as_mut() => return,
                () = handover.cancelled() => connection.as_mut().graceful_shutdown(),
                () = stop.cancelled() => return,
            }
            tokio::select! {
                _ = connection => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

fn log_accept_error(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::warn!(%error, "accept connection failed");
    }
}
