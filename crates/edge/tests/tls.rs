//! TLS: both protocols, WebSockets in both, and what is no TLS.

mod support;

use bytes::Bytes;
use futures::future::BoxFuture;
use hearth_edge::{
    BoxError, ConnectionThreads, Edge, EdgeConfig, Route, RouteTable, ServerConfig, ServerStopped,
    serve_tls,
};
use hearth_ids::SandboxId;
use hearth_tls::{Authority, Certificates, server_config};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::{Answer, Guest, echo, full, text, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

type Body = BoxBody<Bytes, BoxError>;

struct TlsEdge {
    address: SocketAddr,
    routes: Arc<RouteTable>,
    edge: Edge,
    roots: RootCertStore,
    shutdown: CancellationToken,
    server: JoinHandle<ServerStopped>,
}

impl TlsEdge {
    async fn start(limits: ServerConfig) -> Self {
        let keys = tempfile::tempdir().expect("a folder");
        let authority = Authority::open_or_create(keys.path(), "localhost").expect("made");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let certificates = Certificates::own(keys.path(), "localhost").expect("made");
        let config = Arc::new(server_config(Arc::new(certificates)).expect("valid"));
        let routes = Arc::new(RouteTable::default());
        let edge = Edge::new(routes.clone(), EdgeConfig::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shutdown = CancellationToken::new();
        let service = edge.alone();
        let server = tokio::spawn(serve_tls(
            listener,
            service,
            limits,
            ConnectionThreads::start(2).expect("threads"),
            config,
            shutdown.clone(),
        ));
        Self {
            address,
            routes,
            edge,
            roots,
            shutdown,
            server,
        }
    }

    fn sandbox(&self, guest: &Guest) -> SandboxId {
        let id = SandboxId::random();
        let route = Route::new(guest.ip(), CancellationToken::new());
        self.routes.insert(id.clone(), route);
        id
    }

    async fn connect(&self, name: &str, protocol: &[u8]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let stream = within("a handshake", connector.connect(name, stream))
            .await
            .expect("a trusted certificate");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        stream
    }

    async fn http2(&self, name: &str) -> http2::SendRequest<Body> {
        let io = TokioIo::new(self.connect(name, b"h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        sender
    }
}

fn label(id: &SandboxId, guest: &Guest) -> String {
    format!("{}-{id}.localhost", guest.port())
}

/// A guest that switches to a protocol of shouting.
fn shout(mut request: Request<Incoming>) -> BoxFuture<'static, io::Result<Answer>> {
    Box::pin(async move {
        let headers = request.headers();
        let refused = headers["upgrade"] != "websocket"
            || headers["sec-websocket-version"] != "13"
            || headers["sec-websocket-key"].is_empty();
        if refused {
            let mut answer = Response::new(full("no"));
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            return Ok(answer);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                buffer[..count].make_ascii_uppercase();
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        });
        let answer = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "x")
            .header("sec-websocket-protocol", "chat")
            .body(full(""));
        Ok(answer.expect("valid"))
    })
}

#[tokio::test]
async fn http1_and_http2_by_name() {
    let edge = TlsEdge::start(ServerConfig::default()).await;
    let guest = Guest::start(echo).await;
    let id = edge.sandbox(&guest);
    let name = label(&id, &guest);
    let host = format!("{name}:3443");

    let io = TokioIo::new(edge.connect(&name, b"http/1.1").await);
    let (mut sender, connection) = http1::handshake::<_, Body>(io).await.expect("a handshake");
    tokio::spawn(connection);
    let request = Request::post("/a?b=c")
        .header("host", &host)
        .body(full("x"));
    let answer = within("an answer", sender.send_request(request.expect("valid"))).await;
    let seen = text(answer.expect("an answer")).await;
    assert!(seen.starts_with("POST /a?b=c\n"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: https"), "{seen}");
    assert!(seen.contains(&format!("host: {host}")), "{seen}");

    let mut sender = edge.http2(&name).await;
    let request = Request::post(format!("https://{host}/a?b=c")).body(full("y"));
    let answer = within("an answer", sender.send_request(request.expect("valid"))).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.version(), Version::HTTP_2);
    let seen = text(answer).await;
    assert!(
        seen.contains(&format!("host: {host}")) && seen.ends_with("\n\ny"),
        "{seen}"
    );
    // A connection that is coalesced: every request is routed by its own name.
    let request = Request::get(format!("https://1-{id}.localhost/")).body(full(""));
    let answer = within("an answer", sender.send_request(request.expect("valid"))).await;
    assert_eq!(answer.expect("an answer").status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn web_sockets_pass_in_http2() {
    let edge = TlsEdge::start(ServerConfig::default()).await;
    let guest = Guest::start(shout).await;
    let id = edge.sandbox(&guest);
    let mut sender = edge.http2(&label(&id, &guest)).await;
    let connect = |protocol: &'static str| {
        Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://{}/chat", label(&id, &guest)))
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", "chat")
            .extension(Protocol::from_static(protocol))
            .body(full(""))
            .expect("valid")
    };
    // The server's settings come first: they allow the extended CONNECT.
    let plain = Request::get(format!("https://{}/", "none.localhost")).body(full(""));
    within("an answer", sender.send_request(plain.expect("valid")))
        .await
        .expect("an answer");

    let mut answer = within("an answer", sender.send_request(connect("websocket")))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    assert!(!answer.headers().contains_key("upgrade"));
    let upgraded = hyper::upgrade::on(&mut answer).await.expect("a stream");
    let mut stream = TokioIo::new(upgraded);
    for word in ["hello", "again"] {
        stream.write_all(word.as_bytes()).await.expect("sent");
        let mut read = vec![0; word.len()];
        within("an echo", stream.read_exact(&mut read))
            .await
            .expect("received");
        assert_eq!(read, word.to_ascii_uppercase().as_bytes());
    }
    // Counted while it lasts.
    let metrics = edge.edge.metrics();
    let line = format!("hearth_edge_received_bytes_total{{sandbox=\"{id}\"}} 10");
    assert!(metrics.contains(&line), "{metrics}");
    let line = format!("hearth_edge_open_requests{{sandbox=\"{id}\"}} 1");
    assert!(metrics.contains(&line), "{metrics}");
    // The sandbox ends: the stream does, and the connection stays.
    assert!(edge.routes.remove(&id));
    let mut rest = Vec::new();
    let end = within("the end", stream.read_to_end(&mut rest)).await;
    assert!(end.is_err() || rest.is_empty());

    let answer = within("an answer", sender.send_request(connect("connect-udp")))
        .await
        .expect("an answer");
    assert_ne!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn plain_http_is_told_so_and_silence_is_cut_off() {
    let limits = ServerConfig {
        header_timeout_ms: 300,
        ..ServerConfig::default()
    };
    let edge = TlsEdge::start(limits).await;
    let mut stream = TcpStream::connect(edge.address).await.expect("connected");
    stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .expect("text");
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("HTTPS"),
        "{answer}"
    );

    let mut silent = TcpStream::connect(edge.address).await.expect("connected");
    let mut rest = Vec::new();
    let read = within("the end", silent.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.is_empty());
}

#[tokio::test]
async fn open_requests_end_before_the_server_does() {
    let edge = TlsEdge::start(ServerConfig::default()).await;
    let (guest, feed) = support::stream::streaming_guest().await;
    let id = edge.sandbox(&guest);
    let mut sender = edge.http2(&label(&id, &guest)).await;
    let request = Request::get(format!("https://{}/", label(&id, &guest))).body(full(""));
    let answer = within("an answer", sender.send_request(request.expect("valid"))).await;
    let mut body = answer.expect("an answer").into_body();
    feed.send(Bytes::from_static(b"first"))
        .await
        .expect("taken");
    let frame = within("a chunk", body.frame())
        .await
        .expect("more")
        .expect("whole");
    assert_eq!(frame.into_data().expect("data"), "first");
    edge.shutdown.cancel();
    // Not accepted any more, but served on.
    within("the port to close", async {
        while TcpStream::connect(edge.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    feed.send(Bytes::from_static(b"last")).await.expect("taken");
    drop(feed);
    let rest = within("the rest", body.collect()).await.expect("whole");
    assert_eq!(rest.to_bytes(), "last");
    assert!(
        within("the end", edge.server)
            .await
            .expect("no panic")
            .drained
    );
    edge.edge.shutdown().await;
}
