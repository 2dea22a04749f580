//! Several threads carry connections: what is each thread's own, and what is shared.

mod support;

use async_trait::async_trait;
use hearth_edge::{
    BoxError, ConnectionThreads, Credentials, Edge, EdgeConfig, Route, Routes, ServerConfig,
    WakeError, serve,
};
use hearth_ids::SandboxId;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use support::{Guest, TestEdge, echo, full, get, text, until, within};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

type Client = SendRequest<BoxBody<Bytes, BoxError>>;

const THREADS: usize = 3;

async fn edge(config: EdgeConfig) -> TestEdge {
    let server = ServerConfig {
        threads: THREADS,
        ..ServerConfig::default()
    };
    TestEdge::with(config, server).await
}

/// Connections that stay open; each thread of the edge has one.
async fn clients(edge: &TestEdge) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..THREADS {
        let io = TokioIo::new(edge.connect().await);
        let (sender, connection) = handshake(io).await.expect("a handshake");
        tokio::spawn(connection);
        clients.push(sender);
    }
    clients
}

async fn send(client: &mut Client, id: &SandboxId, port: u16) -> Response<Incoming> {
    client.ready().await.expect("the connection stands");
    within("an answer", client.send_request(get(id, port, "/")))
        .await
        .expect("an answer")
}

#[tokio::test]
async fn each_thread_keeps_connections_of_its_own() {
    let edge = edge(EdgeConfig::default()).await;
    let guest = Guest::start(echo).await;
    let id = edge.sandbox(guest.ip());
    let mut clients = clients(&edge).await;
    for _ in 0..4 {
        for client in &mut clients {
            let answer = send(client, &id, guest.port()).await;
            assert_eq!(answer.status(), StatusCode::OK);
            text(answer).await;
        }
    }
    assert_eq!(guest.accepted.load(Ordering::SeqCst), THREADS);
    assert_eq!(edge.edge.stats().requests, 4 * THREADS as u64);
}

#[tokio::test]
async fn the_limit_of_kept_connections_counts_those_of_all_threads() {
    let edge = edge(EdgeConfig {
        max_idle_per_port: 1,
        guest_idle_seconds: 600,
        ..EdgeConfig::default()
    })
    .await;
    let guest = Guest::start(echo).await;
    let id = edge.sandbox(guest.ip());
    let mut clients = clients(&edge).await;
    for client in &mut clients {
        text(send(client, &id, guest.port()).await).await;
    }
    until("all but one connection to close", || {
        guest.open.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test]
async fn the_limit_of_open_requests_counts_those_of_all_threads() {
    let edge = edge(EdgeConfig {
        max_open_per_sandbox: THREADS - 1,
        ..EdgeConfig::default()
    })
    .await;
    let never = Guest::start(|_| Box::pin(std::future::pending())).await;
    let id = edge.sandbox(never.ip());
    let mut clients = clients(&edge).await;
    let mut last = clients.pop().expect("there are");
    for mut client in clients {
        let request = get(&id, never.port(), "/");
        tokio::spawn(async move { client.send_request(request).await });
    }
    until("the others to be open", || {
        edge.edge.stats().open == THREADS - 1
    })
    .await;
    let answer = send(&mut last, &id, never.port()).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
}

/// Knows one sandbox, which sleeps; it can be woken on one runtime only.
struct Sleeper {
    home: Handle,
    route: Arc<Route>,
}

#[async_trait]
impl Routes for Sleeper {
    fn lookup(&self, _: &SandboxId) -> Option<Arc<Route>> {
        None
    }

    fn visit(&self, _: &mut dyn FnMut(&SandboxId, &Arc<Route>) -> ControlFlow<()>) {}

    async fn wake(&self, _: &SandboxId, _: u16, _: &Credentials) -> Result<Arc<Route>, WakeError> {
        assert_eq!(Handle::current().id(), self.home.id());
        Ok(Arc::clone(&self.route))
    }
}

#[tokio::test]
async fn waking_and_the_service_behind_run_where_the_edge_was_made() {
    let guest = Guest::start(echo).await;
    let home = Handle::current();
    let sleeper = Sleeper {
        home: home.clone(),
        route: Arc::new(Route::new(guest.ip(), CancellationToken::new())),
    };
    let edge = Edge::new(Arc::new(sleeper), EdgeConfig::default());
    let behind = tower::service_fn(move |_: Request<Incoming>| {
        let home = home.clone();
        async move {
            assert_eq!(Handle::current().id(), home.id());
            Ok::<_, Infallible>(Response::new(full("behind")))
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (cores, stop) = (
        ConnectionThreads::start(2).expect("threads"),
        CancellationToken::new(),
    );
    let service = edge.or_else(behind);
    let serving = serve(
        listener,
        service,
        ServerConfig::default(),
        cores.clone(),
        stop.clone(),
    );
    let server = tokio::spawn(serving);
    let io = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
    let (mut client, connection) = handshake(io).await.expect("a handshake");
    tokio::spawn(connection);
    let woken = send(&mut client, &SandboxId::random(), guest.port()).await;
    assert_eq!(woken.status(), StatusCode::OK);
    text(woken).await;
    let request = Request::get("/").header("host", "localhost").body(full(""));
    let answer = client.send_request(request.expect("valid")).await;
    assert_eq!(text(answer.expect("an answer")).await, "behind");
    stop.cancel();
    assert!(within("the end", server).await.expect("no panic").drained);
    edge.shutdown().await;
    within("the threads' end", cores.stop()).await;
}
