//! An upstream pool is what the edge holds for one running sandbox: connections kept for the
//! next request, and a count of what is open.
//!
//! Who owns a connection: while a request uses it, the request's future and then the
//! response's body; in between, the pool. Dropping a [`GuestConnection`] anywhere
//! else closes its socket at once, so a client that goes away is noticed by the
//! guest. A kept connection goes to requests of the thread that it lives on alone
//! (see [`threads`](crate::threads)); limits count those of all threads.
//!
//! A pool ends when its route's `closed` token fires or the edge shuts down. Its
//! requests see that through `ended`; the edge's sweep drops the pool later.

use crate::AGENT_PORT;
use crate::config::EdgeConfig;
use crate::guest::{GuestConnection, OutgoingBody};
use crate::guest_tls::{self, GuestStream, Protocol};
use crate::loopback;
use crate::record::Counters;
use crate::refusal::Refusal;
use crate::routes::Route;
use crate::threads::CoreId;
use hearth_ids::SandboxId;
use hearth_util::LockExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::either::Either as Stream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// An HTTP/2 connection to a guest, shared by its streams; closed with the last.
#[derive(Clone)]
pub(crate) struct GuestMultiplex {
    pub(crate) sender: http2::SendRequest<OutgoingBody>,
    _alive: Arc<DropGuard>,
}

struct Idle {
    core: CoreId,
    connection: GuestConnection,
    since: Instant,
}

#[derive(Default)]
struct Kept {
    /// Per port, the most recently used last.
    idle: HashMap<u16, Vec<Idle>>,
    multiplexes: HashMap<(CoreId, u16), GuestMultiplex>,
}

pub(crate) struct UpstreamPool {
    pub(crate) id: SandboxId,
    pub(crate) route: Arc<Route>,
    /// Fires with the route's `closed`, or when the edge shuts down.
    pub(crate) ended: CancellationToken,
    pub(crate) counters: Arc<Counters>,
    open: Arc<Semaphore>,
    kept: Mutex<Kept>,
    config: Arc<EdgeConfig>,
    pub(crate) tasks: TaskTracker,
}

impl UpstreamPool {
    pub(crate) fn new(
        id: SandboxId,
        route: Arc<Route>,
        config: Arc<EdgeConfig>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            ended: route.closed.child_token(),
            route,
            counters: Arc::default(),
            open: Arc::new(Semaphore::new(config.max_open_per_sandbox)),
            kept: Mutex::default(),
            config,
            tasks,
        })
    }

    /// Counts one more open request, until the permit is dropped.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.open)
            .try_acquire_owned()
            .map_err(|_| Refusal::TooManyConnections {
                id: self.id.clone(),
                limit: self.config.max_open_per_sandbox,
            })
    }

    /// Requests, streams and tunnels open now.
    pub(crate) fn open_requests(&self) -> usize {
        self.config
            .max_open_per_sandbox
            .saturating_sub(self.open.available_permits())
    }

    /// A kept connection of this thread that can take a request now.
    pub(crate) async fn idle_connection(&self, port: u16) -> Option<GuestConnection> {
        let (core, limit) = (CoreId::current(), self.config.idle_limit(port));
        loop {
            let idle = {
                let mut kept = self.kept();
                let idle = kept.idle.get_mut(&port)?;
                let last = idle.iter().rposition(|idle| idle.core == core)?;
                idle.remove(last)
            };
            if idle.since.elapsed() > limit {
                continue;
            }
            let mut connection = idle.connection;
            if connection.settled().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose response was read to its end, if it can be used again.
    pub(crate) fn return_idle(
        &self,
        port: u16,
        mut connection: GuestConnection,
        context: &mut Context<'_>,
    ) {
        if !connection.is_free(context) && !connection.may_settle() || self.ended.is_cancelled() {
            return;
        }
        let mut kept = self.kept();
        let idle = kept.idle.entry(port).or_default();
        if idle.len() >= self.config.max_idle_per_port {
            idle.remove(0);
        }
        idle.push(Idle {
            core: CoreId::current(),
            connection,
            since: Instant::now(),
        });
    }

    /// Opens an HTTP/1.1 connection to a port of the guest.
    pub(crate) async fn open(&self, port: u16) -> Result<GuestConnection, Refusal> {
        let stream = self.connect(port, Protocol::Http1).await?;
        GuestConnection::new(stream)
            .await
            .map_err(|_| self.broken(port))
    }

    /// This thread's shared HTTP/2 connection to a port of the guest, opened when
    /// needed.
    pub(crate) async fn multiplex(&self, port: u16) -> Result<GuestMultiplex, Refusal> {
        let key = (CoreId::current(), port);
        if let Some(multiplex) = self.kept().multiplexes.get(&key)
            && !multiplex.sender.is_closed()
        {
            return Ok(multiplex.clone());
        }
        let stream = self.connect(port, Protocol::Http2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 22)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| self.broken(port))?;
        let alive = self.ended.child_token();
        let multiplex = GuestMultiplex {
            sender,
            _alive: Arc::new(alive.clone().drop_guard()),
        };
        self.tasks.spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = alive.cancelled() => {}
            }
        });
        self.kept().multiplexes.insert(key, multiplex.clone());
        Ok(multiplex)
    }

    /// Connects to the guest, inside TLS where the port's service asks for that.
    async fn connect(&self, port: u16, protocol: Protocol) -> Result<GuestStream, Refusal> {
        let stream = self.dial(port).await?;
        if port == AGENT_PORT || !self.route.https_ports.contains(&port) {
            return Ok(Stream::Left(stream));
        }
        let shaking = guest_tls::connect(stream, protocol);
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.config.dial_timeout(), shaking) => shaken,
            () = self.ended.cancelled() => return Err(self.gone()),
        };
        match shaken {
            Ok(Ok(stream)) => Ok(Stream::Right(stream)),
            Ok(Err(error)) => {
                tracing::debug!(sandbox = %self.id, port, %error, "TLS handshake with the guest failed");
                Err(self.no_tls(port))
            }
            Err(_) => Err(self.no_tls(port)),
        }
    }

    /// Opens a TCP connection to the guest. A port that refuses may listen on the guest's loopback
    /// alone, where the agent reaches it. Else it is tried again a few times, because
    /// the usual cause is a server that was started a moment ago.
    async fn dial(&self, port: u16) -> Result<TcpStream, Refusal> {
        let address = SocketAddr::new(self.route.address, port);
        let mut pauses = self.config.dial_retry_ms.iter();
        let attempts = async {
            loop {
                let attempt =
                    tokio::time::timeout(self.config.dial_timeout(), TcpStream::connect(address))
                        .await;
                match attempt {
                    Ok(Ok(stream)) => return Some(stream),
                    Ok(Err(error)) => {
                        tracing::debug!(sandbox = %self.id, port, %error, "connect to the guest failed");
                        if let Some(stream) = self.dial_loopback(port, &error).await {
                            return Some(stream);
                        }
                    }
                    Err(_) => {
                        tracing::debug!(sandbox = %self.id, port, "connect to the guest timed out")
                    }
                }
                let pause = pauses.next()?;
                tokio::time::sleep(Duration::from_millis(*pause)).await;
            }
        };
        let stream = tokio::select! {
            stream = attempts => stream,
            () = self.ended.cancelled() => return Err(self.gone()),
        };
        let stream = stream.ok_or_else(|| self.port_closed(port))?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(sandbox = %self.id, port, %error, "guest hung up");
            return Err(self.port_closed(port));
        }
        Ok(stream)
    }

    async fn dial_loopback(&self, port: u16, refusal: &io::Error) -> Option<TcpStream> {
        if refusal.kind() != io::ErrorKind::ConnectionRefused || port == AGENT_PORT {
            return None;
        }
        let agent = SocketAddr::new(self.route.address, AGENT_PORT);
        let token = self.route.envd_access_token.as_ref();
        match loopback::dial(agent, port, token, self.config.dial_timeout()).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(sandbox = %self.id, port, %error, "open tunnel through the agent failed");
                None
            }
        }
    }

    /// Drops connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        let mut kept = self.kept();
        kept.idle.retain(|port, idle| {
            let limit = self.config.idle_limit(*port);
            idle.retain(|one| one.since.elapsed() <= limit);
            !idle.is_empty()
        });
        kept.multiplexes
            .retain(|_, multiplex| !multiplex.sender.is_closed());
    }

    pub(crate) fn gone(&self) -> Refusal {
        Refusal::NotFound(self.id.clone())
    }

    pub(crate) fn broken(&self, port: u16) -> Refusal {
        if self.ended.is_cancelled() {
            return self.gone();
        }
        Refusal::Broken {
            id: self.id.clone(),
            port,
        }
    }

    fn no_tls(&self, port: u16) -> Refusal {
        Refusal::NoTls {
            id: self.id.clone(),
            port,
        }
    }

    fn port_closed(&self, port: u16) -> Refusal {
        Refusal::PortClosed {
            id: self.id.clone(),
            port,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock_unpoisoned()
    }
}
