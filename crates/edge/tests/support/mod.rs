//! What the edge's tests share: an edge on a free port, guests made of hyper
//! servers, and a client that sees what comes over the wire.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod stream;

use bytes::Bytes;
use futures::future::BoxFuture;
use hearth_edge::{
    BoxError, ConnectionThreads, Edge, EdgeConfig, Peer, Route, RouteTable, ServerConfig,
    ServerStopped, serve,
};
use hearth_ids::SandboxId;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The bound of every wait.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took more than {BOUND:?}"),
    }
}

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) type Answer = Response<BoxBody<Bytes, BoxError>>;

pub(crate) fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, BoxError> {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

/// An edge that serves, with a fallback that answers `fallback`.
pub(crate) struct TestEdge {
    pub(crate) address: SocketAddr,
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) edge: Edge,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: JoinHandle<ServerStopped>,
}

impl TestEdge {
    pub(crate) async fn start() -> Self {
        let server = ServerConfig {
            threads: 2,
            ..ServerConfig::default()
        };
        Self::with(EdgeConfig::default(), server).await
    }

    /// With one thread unless the configuration says otherwise.
    pub(crate) async fn with(config: EdgeConfig, server: ServerConfig) -> Self {
        let routes = Arc::new(RouteTable::default());
        let edge = Edge::new(routes.clone(), config);
        let fallback = tower::service_fn(|request: Request<Incoming>| async move {
            let peer = request
                .extensions()
                .get::<Peer>()
                .expect("the server sets it");
            assert!(peer.address.ip().is_loopback());
            Ok::<_, Infallible>(Response::new(full("fallback")))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shutdown = CancellationToken::new();
        let service = edge.or_else(fallback);
        let cores = ConnectionThreads::start(server.threads.max(1)).expect("threads");
        let serving = serve(listener, service, server, cores, shutdown.clone());
        let server = tokio::spawn(serving);
        Self {
            address,
            routes,
            edge,
            shutdown,
            server,
        }
    }

    /// Publishes a running sandbox at an address.
    pub(crate) fn sandbox(&self, address: IpAddr) -> SandboxId {
        self.sandbox_with(Route::new(address, CancellationToken::new()))
    }

    pub(crate) fn sandbox_with(&self, route: Route) -> SandboxId {
        let id = SandboxId::random();
        self.routes.insert(id.clone(), route);
        id
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("the edge listens")
    }

    /// Sends raw HTTP/1.1 text on a fresh connection and reads to the end.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // A reset after the answer is fine: the answer is what counts.
        let _ = within("an answer", stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A request on a fresh HTTP/1.1 connection.
    pub(crate) async fn send(
        &self,
        request: Request<BoxBody<Bytes, BoxError>>,
    ) -> Response<Incoming> {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .expect("a handshake");
        tokio::spawn(connection.with_upgrades());
        within("an answer", sender.send_request(request))
            .await
            .expect("an answer")
    }

    pub(crate) async fn get(&self, id: &SandboxId, port: u16, path: &str) -> Response<Incoming> {
        self.send(get(id, port, path)).await
    }
}

/// A request routed by headers.
pub(crate) fn get(id: &SandboxId, port: u16, path: &str) -> Request<BoxBody<Bytes, BoxError>> {
    routed(id, port, path).body(full("")).expect("valid")
}

pub(crate) fn routed(id: &SandboxId, port: u16, path: &str) -> http::request::Builder {
    Request::builder()
        .uri(path)
        .header("host", "localhost:3000")
        .header("e2b-sandbox-id", id.as_str())
        .header("e2b-sandbox-port", port)
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = within("the body", response.into_body().collect())
        .await
        .expect("a whole body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

/// A guest's server. Dropping it closes the port and every connection.
pub(crate) struct Guest {
    pub(crate) address: SocketAddr,
    /// Connections accepted so far.
    pub(crate) accepted: Arc<AtomicUsize>,
    /// Connections open now.
    pub(crate) open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    connections: Arc<CancellationToken>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.task.abort();
        self.connections.cancel();
    }
}

struct Open(Arc<AtomicUsize>);
impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Guest {
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, io::Result<Answer>>,
        F: Send + Sync + 'static,
    {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), answer).await
    }

    /// On the agent's port, at a loopback address of its own.
    pub(crate) async fn agent<F>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, io::Result<Answer>>,
        F: Send + Sync + 'static,
    {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        let [a, b, ..] = std::process::id().to_le_bytes();
        let address = Ipv4Addr::new(127, a.max(1), b ^ high, low.max(1));
        Self::at((address, hearth_edge::AGENT_PORT).into(), answer).await
    }

    pub(crate) async fn at<F>(address: SocketAddr, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> BoxFuture<'static, io::Result<Answer>>,
        F: Send + Sync + 'static,
    {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("set");
        socket.bind(address).expect("a free address");
        let listener = socket.listen(4096).expect("listens");
        let address = listener.local_addr().expect("bound");
        let (accepted, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let connections = Arc::new(CancellationToken::new());
        let answer = Arc::new(answer);
        let (task_accepted, task_open, stop) =
            (accepted.clone(), open.clone(), connections.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                task_accepted.fetch_add(1, Ordering::SeqCst);
                task_open.fetch_add(1, Ordering::SeqCst);
                let open = Open(task_open.clone());
                let (answer, stop) = (answer.clone(), stop.clone());
                tokio::spawn(async move {
                    let _open = open;
                    let service = hyper::service::service_fn(move |request| answer(request));
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let serving =
                        builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = serving => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
        Self {
            address,
            accepted,
            open,
            task,
            connections,
        }
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Answers with method, target and headers, one per line, and the body.
pub(crate) fn echo(request: Request<Incoming>) -> BoxFuture<'static, io::Result<Answer>> {
    Box::pin(async move {
        let (head, body) = request.into_parts();
        let mut text = format!("{} {}\n", head.method, head.uri);
        for (name, value) in &head.headers {
            text.push_str(&format!(
                "{name}: {}\n",
                String::from_utf8_lossy(value.as_bytes())
            ));
        }
        text.push('\n');
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        text.push_str(&String::from_utf8_lossy(&body));
        Ok(Response::new(full(text)))
    })
}
