//! What guests get from the edge: names of headers as old programs expect them, TLS
//! where they ask for it, and nothing from those whom their own rules keep away.

mod support;

use async_trait::async_trait;
use futures::{SinkExt as _, StreamExt as _};
use hearth_edge::{
    ConnectionThreads, Edge, EdgeConfig, Route, Routes, ServerConfig, Visited, serve,
};
use hearth_ids::SandboxId;
use http::Request;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use support::{TestEdge, full, get, routed, text, within};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

/// Reads one request's head and answers it; returns the head as it was written.
async fn answer_once<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a whole head"));
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/x-test\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.expect("answered");
    stream.shutdown().await.expect("closed");
    String::from_utf8(head).expect("text")
}

fn guest(listener: TcpListener) -> JoinHandle<String> {
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a visitor");
        answer_once(stream).await
    })
}

/// TLS under a certificate that nobody has reason to trust.
fn self_made() -> TlsAcceptor {
    let keys = tempfile::tempdir().expect("a folder");
    let authority = hearth_tls::Authority::open_or_create(keys.path(), "elsewhere.test");
    let leaf = authority
        .and_then(|authority| authority.issue(&["elsewhere.test".to_owned()]))
        .expect("issued");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(leaf)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn with_https(port: u16) -> Route {
    Route {
        https_ports: vec![port],
        ..Route::new(LOCALHOST, CancellationToken::new())
    }
}

#[tokio::test]
async fn names_of_headers_are_written_as_http_1_does() {
    let edge = TestEdge::start().await;
    let (listener, port) = listen().await;
    let id = edge.sandbox(LOCALHOST);
    let guest = guest(listener);
    // As a client of HTTP/2 would write them.
    let answer = edge
        .raw(&format!(
            "POST /x HTTP/1.1\r\nhost: {port}-{id}.localhost\r\ncontent-type: text/plain\r\n\
             x-custom-name: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ))
        .await;
    let head = within("the guest", guest).await.expect("no panic");
    for line in [
        format!("Host: {port}-{id}.localhost"),
        "Content-Type: text/plain".to_owned(),
        "Content-Length: 0".to_owned(),
        "X-Custom-Name: 1".to_owned(),
        "X-Forwarded-Proto: http".to_owned(),
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert!(
        answer.contains("\r\nContent-Type: text/x-test\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn so_are_those_of_an_upgrade() {
    let edge = TestEdge::start().await;
    let (listener, port) = listen().await;
    let id = edge.sandbox(LOCALHOST);
    let guest = guest(listener);
    let answer = edge
        .raw(&format!(
            "GET /x HTTP/1.1\r\nhost: {port}-{id}.localhost\r\nconnection: close, upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let head = within("the guest", guest).await.expect("no panic");
    for name in ["Host", "Connection", "Upgrade", "Sec-Websocket-Key"] {
        assert!(head.contains(&format!("\r\n{name}: ")), "{name}: {head}");
    }
}

#[tokio::test]
async fn https_ports_are_spoken_to_in_tls_whatever_their_certificate() {
    let edge = TestEdge::start().await;
    let (listener, port) = listen().await;
    let id = edge.sandbox_with(with_https(port));
    let acceptor = self_made();
    let guest = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a visitor");
        let stream = acceptor.accept(stream).await.expect("TLS");
        let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        (spoken, answer_once(stream).await)
    });
    let answer = edge.get(&id, port, "/inside").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(text(answer).await, "ok");
    let (spoken, head) = within("the guest", guest).await.expect("no panic");
    assert_eq!(spoken.as_deref(), Some(&b"http/1.1"[..]));
    assert!(head.starts_with("GET /inside HTTP/1.1\r\n"), "{head}");
}

/// As Python's servers do: no length, and no word in TLS that it was all.
#[tokio::test]
async fn an_https_port_may_end_its_answer_with_the_connection() {
    let edge = TestEdge::start().await;
    let (listener, port) = listen().await;
    let id = edge.sandbox_with(with_https(port));
    let acceptor = self_made();
    let guest = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a visitor");
        let mut stream = acceptor.accept(stream).await.expect("TLS");
        let mut asked = [0; 1024];
        assert!(stream.read(&mut asked).await.expect("a request") > 0);
        let answer = b"HTTP/1.0 200 OK\r\n\r\nall of it";
        stream.write_all(answer).await.expect("written");
        stream.flush().await.expect("written");
        // Without TLS's goodbye.
        let (mut bare, _) = stream.into_inner();
        bare.shutdown().await.expect("closed");
    });
    let answer = edge.get(&id, port, "/").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(text(answer).await, "all of it");
    within("the guest", guest).await.expect("no panic");
}

#[tokio::test]
async fn websockets_reach_https_ports() {
    let edge = TestEdge::start().await;
    let (listener, port) = listen().await;
    let id = edge.sandbox_with(with_https(port));
    let acceptor = self_made();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a visitor");
        let stream = acceptor.accept(stream).await.expect("TLS");
        let mut socket = tokio_tungstenite::accept_async(stream)
            .await
            .expect("a handshake");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.expect("sent");
            }
        }
    });
    let url = format!("ws://{port}-{id}.localhost/socket");
    let (mut socket, _) = tokio_tungstenite::client_async(url, edge.connect().await)
        .await
        .expect("a handshake");
    socket.send(Message::text("hello")).await.expect("sent");
    let echo = within("the echo", socket.next()).await;
    assert_eq!(echo.expect("more").expect("ok"), Message::text("hello"));
}

#[tokio::test]
async fn a_listed_port_without_tls_is_told_so() {
    let edge = TestEdge::start().await;
    let (listener, port) = listen().await;
    let id = edge.sandbox_with(with_https(port));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let answer = edge.get(&id, port, "/").await;
    assert_eq!(answer.status(), 502);
    let body = text(answer).await;
    assert!(
        body.contains("httpsPorts") && body.contains(&id.to_string()),
        "{body}"
    );
}

/// One sandbox, which some peers are kept away from.
struct Guarded {
    id: SandboxId,
    route: Arc<Route>,
}

#[async_trait]
impl Routes for Guarded {
    fn lookup(&self, id: &SandboxId) -> Option<Arc<Route>> {
        (*id == self.id).then(|| Arc::clone(&self.route))
    }

    fn visit(&self, visit: &mut dyn FnMut(&SandboxId, &Arc<Route>) -> ControlFlow<()>) {
        let _ = visit(&self.id, &self.route);
    }

    fn admits(&self, peer: SocketAddr, visited: Visited<'_>) -> bool {
        assert!(peer.ip().is_loopback());
        match visited.sandbox {
            Some((id, port)) => *id != self.id || port == 1,
            None => visited.host != Some("api.test"),
        }
    }
}

#[tokio::test]
async fn each_request_is_asked_about() {
    let id = SandboxId::random();
    let routes = Guarded {
        id: id.clone(),
        route: Arc::new(Route::new(LOCALHOST, CancellationToken::new())),
    };
    let config = EdgeConfig {
        dial_retry_ms: Vec::new(),
        ..EdgeConfig::default()
    };
    let edge = Edge::new(Arc::new(routes), config);
    let (listener, port) = listen().await;
    let cores = ConnectionThreads::start(1).expect("threads");
    let stop = CancellationToken::new();
    let limits = ServerConfig::default();
    let serving = tokio::spawn(serve(listener, edge.alone(), limits, cores, stop.clone()));
    let stream = tokio::net::TcpStream::connect((LOCALHOST, port))
        .await
        .expect("connected");
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let unknown = SandboxId::random();
    let api = |host: &str| {
        let request = Request::get("/").header("host", host);
        request.body(full("")).expect("valid")
    };
    let by_host = |host: String| api(&host);
    // All on one connection.
    for (request, status) in [
        (get(&unknown, 80, "/"), 502),
        (get(&id, 80, "/"), 403),
        (by_host(format!("80-{id}-6532622b.test")), 403),
        (get(&id, 1, "/"), 502),
        (api("api.test:3000"), 403),
        (api("other.test"), 400),
    ] {
        sender.ready().await.expect("kept");
        let answer = within("an answer", sender.send_request(request))
            .await
            .expect("an answer");
        assert_eq!(answer.status(), status);
        let body = text(answer).await;
        assert_eq!(body.contains("network rules"), status == 403, "{body}");
    }
    // A page of a sandbox gets the reason as any other.
    let page = routed(&id, 80, "/").header("user-agent", "Mozilla/5.0");
    let page = page.body(full("")).expect("valid");
    let answer = sender.send_request(page).await.expect("an answer");
    assert!(
        text(answer)
            .await
            .contains("<title>Denied By Network Rules</title>")
    );
    stop.cancel();
    drop(sender);
    within("the server's end", serving).await.expect("no panic");
}
