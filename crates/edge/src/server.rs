//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them (with TLS by ALPN,
//! without it by prior knowledge), with limits and a graceful end.
//!
//! One task per connection, owned by the server, on one of its [`ConnectionThreads`]. At shutdown
//! accepting stops, each connection finishes its open requests, and what has not ended
//! after the drain time is cut off.

use crate::BoxError;
use crate::budget::Budget;
use crate::config::ServerConfig;
use crate::threads::ConnectionThreads;
use crate::tls;
use crate::watch::{Keeper, OpenRequest, Order, Watched};
use bytes::Bytes;
use http::{Extensions, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{self, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who sent a request: an extension of every request that a [`Server`] serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Address of the client's side of the connection.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Peer {
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().copied().unwrap_or(Self {
            address: (Ipv4Addr::UNSPECIFIED, 0).into(),
            tls: false,
        })
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerStopped {
    /// Whether all connections ended by themselves within the drain time.
    pub drained: bool,
}

/// Serves one service on any number of listeners.
#[derive(Clone)]
pub struct Server<S> {
    service: S,
    config: Arc<ServerConfig>,
    cores: ConnectionThreads,
    builder: auto::Builder<TokioExecutor>,
    budget: Budget,
    connections: TaskTracker,
    draining: CancellationToken,
    keeper: Arc<Keeper>,
}

/// Serves `service` on `listener` until `shutdown` fires and the open requests have
/// ended, or the drain time has.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    config: ServerConfig,
    cores: ConnectionThreads,
    shutdown: CancellationToken,
) -> ServerStopped
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let server = Server::new(service, config, cores);
    server.accept(&listener, &shutdown).await;
    drop(listener);
    server.drain().await
}

/// The same with TLS. What `tls` resolves certificates with may change meanwhile.
pub async fn serve_tls<S, B>(
    listener: TcpListener,
    service: S,
    config: ServerConfig,
    cores: ConnectionThreads,
    tls: Arc<rustls::ServerConfig>,
    shutdown: CancellationToken,
) -> ServerStopped
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let server = Server::new(service, config, cores);
    server.accept_tls(&listener, tls, &shutdown).await;
    drop(listener);
    server.drain().await
}

impl<S, B> Server<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A server of `service` within the limits of `config`, whose connections the threads of
    /// `cores` carry.
    #[must_use]
    pub fn new(service: S, config: ServerConfig, cores: ConnectionThreads) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .title_case_headers(true)
            .header_read_timeout(None)
            .max_buf_size(config.max_head_bytes.max(8192));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.max_streams)
            .max_header_list_size(u32::try_from(config.max_head_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 22)
            .keep_alive_interval(Duration::from_secs(60))
            .keep_alive_timeout(Duration::from_secs(30))
            .enable_connect_protocol();
        Self {
            service,
            budget: config.budget.clone().unwrap_or_else(|| {
                let (most, per_peer) = (config.max_connections, config.max_connections_per_address);
                Budget::new(most, per_peer, 0)
            }),
            config: Arc::new(config),
            cores,
            builder,
            connections: TaskTracker::new(),
            draining: CancellationToken::new(),
            keeper: Arc::default(),
        }
    }

    /// Accepts until `shutdown` fires. A failed accept (a client that is already
    /// gone, no descriptors left) never ends it.
    pub async fn accept(&self, listener: &TcpListener, shutdown: &CancellationToken) {
        self.accept_each(listener, shutdown, |server, stream, address| async move {
            let peer = Peer {
                address,
                tls: false,
            };
            server.connection(stream, peer).await;
        })
        .await;
    }

    /// The same for TLS connections.
    pub async fn accept_tls(
        &self,
        listener: &TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: &CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        self.accept_each(listener, shutdown, move |server, stream, address| {
            let acceptor = acceptor.clone();
            async move { server.tls_connection(stream, address, acceptor).await }
        })
        .await;
    }

    async fn accept_each<F>(
        &self,
        listener: &TcpListener,
        shutdown: &CancellationToken,
        handle: impl Fn(Self, TcpStream, SocketAddr) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::select! {
            () = self.accept_all(listener, handle) => {}
            () = self.keeper.look(&self.config) => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn accept_all<F>(
        &self,
        listener: &TcpListener,
        handle: impl Fn(Self, TcpStream, SocketAddr) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            let room = self.budget.room().await;
            let accepted = listener.accept().await;
            // Off this runtime, for the one that will carry it.
            match accepted.and_then(|(stream, address)| Ok((stream.into_std()?, address))) {
                Ok((stream, address)) => {
                    let Some(guard) = self.budget.admit(room, address.ip()) else {
                        tracing::debug!(peer = %address, "connection refused: too many are open");
                        continue;
                    };
                    prepare(&stream);
                    let (server, handle) = (self.clone(), handle.clone());
                    self.cores.spawn(&self.connections, async move {
                        match TcpStream::from_std(stream) {
                            Ok(stream) => handle(server, stream, address).await,
                            Err(error) => tracing::warn!(%error, "register connection with its runtime failed"),
                        }
                        drop(guard);
                    });
                }
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Lets open requests end, for the drain time at most.
    pub async fn drain(&self) -> ServerStopped {
        self.draining.cancel();
        self.keeper.order(Order::Drain);
        self.connections.close();
        let drained = tokio::time::timeout(self.config.drain_timeout(), self.connections.wait())
            .await
            .is_ok();
        self.keeper.order(Order::Cut);
        self.connections.wait().await;
        ServerStopped { drained }
    }

    async fn tls_connection(self, stream: TcpStream, address: SocketAddr, acceptor: TlsAcceptor) {
        let handshake = tokio::time::timeout(
            self.config.header_timeout(),
            tls::handshake(stream, &acceptor),
        );
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            // Nothing was asked for yet.
            () = self.draining.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.connection(stream, Peer { address, tls: true }).await,
            Ok(Err(error)) => tracing::debug!(peer = %address, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %address, "TLS handshake took too long"),
        }
    }

    async fn connection<I>(&self, io: I, peer: Peer)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let kept = self.keeper.add();
        let pace = &kept.pace;
        let service = self.service.clone();
        let service_pace = Arc::clone(pace);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let open = service_pace.request(request.version() == Version::HTTP_2);
            request.extensions_mut().insert(peer);
            let answer = service.clone().oneshot(request);
            async move {
                let response = answer.await?;
                Ok::<_, Infallible>(response.map(|body| Tracked { body, _open: open }))
            }
        });
        let io = Watched::new(TokioIo::new(io), Arc::clone(pace));
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(io, service));
        let mut draining = false;
        let ended = poll_fn(|context| {
            match pace.poll_order(context) {
                Order::GoOn => {}
                Order::Drain if draining => {}
                Order::Drain => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                order @ (Order::EndIdle | Order::EndSlow | Order::Cut) => {
                    return Poll::Ready(Err(order));
                }
            }
            connection.as_mut().poll(context).map(Ok)
        });
        match ended.await {
            Ok(Ok(())) | Err(Order::GoOn | Order::Drain | Order::EndIdle | Order::Cut) => {}
            Ok(Err(error)) => tracing::trace!(%error, "client connection ended"),
            Err(Order::EndSlow) => {
                tracing::debug!(peer = %peer.address, "request head took too long");
            }
        }
    }
}

/// No delay for small writes; and a client that vanished is noticed by the kernel.
fn prepare(stream: &net::TcpStream) {
    let set = stream
        .set_nodelay(true)
        .and_then(|()| Ok(rustix::net::sockopt::set_socket_keepalive(stream, true)?));
    if let Err(error) = set {
        tracing::debug!(%error, "set socket options failed");
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// A response body that keeps its request counted as open.
struct Tracked<B> {
    body: B,
    _open: OpenRequest,
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
