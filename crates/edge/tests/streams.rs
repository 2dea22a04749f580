//! Bodies, streams and tunnels: passed on at once, and broken off on either side's
//! end.

mod support;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use hearth_edge::{AGENT_PORT, BoxError, EdgeConfig, Route, ServerConfig};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use support::{Answer, Guest, TestEdge, echo, full, get, routed, text, until, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// A guest that answers with a stream that the test feeds.
async fn streaming_guest() -> (Guest, mpsc::Sender<Bytes>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let guest = Guest::start(move |_| {
        let receiver = receiver.clone();
        Box::pin(async move {
            let receiver = receiver
                .lock()
                .await
                .take()
                .ok_or(io::ErrorKind::NotFound)?;
            let chunks = futures::stream::unfold(receiver, |mut receiver| async {
                let chunk = receiver.recv().await?;
                Some((Ok::<_, BoxError>(Frame::data(chunk)), receiver))
            });
            Ok(Response::builder()
                .header("content-type", "text/event-stream")
                .body(BodyExt::boxed(SyncStream(Box::pin(StreamBody::new(
                    chunks,
                )))))
                .expect("valid"))
        })
    })
    .await;
    (guest, sender)
}

/// `BoxBody` asks for `Sync`, which a stream of a channel is not by itself.
struct SyncStream<B>(std::pin::Pin<Box<B>>);
impl<B: http_body::Body> http_body::Body for SyncStream<B> {
    type Data = B::Data;
    type Error = B::Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.as_mut().poll_frame(context)
    }
}

async fn next_chunk(
    response: &mut Response<hyper::body::Incoming>,
) -> Option<Result<Bytes, hyper::Error>> {
    let frame = within("a chunk", response.body_mut().frame()).await?;
    Some(frame.map(|frame| frame.into_data().expect("data")))
}

#[tokio::test]
async fn chunks_pass_one_by_one() {
    let edge = TestEdge::start().await;
    let (guest, feed) = streaming_guest().await;
    let id = edge.sandbox(guest.ip());
    feed.send("data: 1\n\n".into()).await.expect("open");
    let mut response = edge.get(&id, guest.port(), "/events").await;
    // Each chunk arrives although the next is not yet there.
    assert_eq!(
        next_chunk(&mut response).await.expect("more").expect("ok"),
        "data: 1\n\n"
    );
    feed.send("data: 2\n\n".into()).await.expect("open");
    assert_eq!(
        next_chunk(&mut response).await.expect("more").expect("ok"),
        "data: 2\n\n"
    );
    drop(feed);
    assert!(next_chunk(&mut response).await.is_none());
}

#[tokio::test]
async fn request_chunks_pass_while_the_answer_is_open() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(|request| {
        Box::pin(async move {
            Ok::<Answer, io::Error>(Response::new(
                request.into_body().map_err(Into::into).boxed(),
            ))
        })
    })
    .await;
    let id = edge.sandbox(guest.ip());
    let (feed, receiver) = mpsc::channel::<Bytes>(1);
    let chunks = futures::stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(chunk)), receiver))
    });
    let body = BodyExt::boxed(SyncStream(Box::pin(StreamBody::new(chunks))));
    let request = routed(&id, guest.port(), "/")
        .method("POST")
        .body(body)
        .expect("valid");
    feed.send("one".into()).await.expect("open");
    let mut response = edge.send(request).await;
    assert_eq!(
        next_chunk(&mut response).await.expect("more").expect("ok"),
        "one"
    );
    feed.send("two".into()).await.expect("open");
    assert_eq!(
        next_chunk(&mut response).await.expect("more").expect("ok"),
        "two"
    );
    drop(feed);
    assert!(next_chunk(&mut response).await.is_none());
}

#[tokio::test]
async fn guest_notices_that_the_client_left() {
    let edge = TestEdge::start().await;
    let (guest, feed) = streaming_guest().await;
    let id = edge.sandbox(guest.ip());
    feed.send("x".into()).await.expect("open");
    let mut response = edge.get(&id, guest.port(), "/").await;
    assert!(next_chunk(&mut response).await.is_some());
    assert_eq!(guest.open.load(Ordering::SeqCst), 1);
    // The guest sends nothing more: it must notice all the same.
    drop(response);
    until("the guest's connection to close", || {
        guest.open.load(Ordering::SeqCst) == 0
    })
    .await;
    within("the guest's body to be dropped", feed.closed()).await;
}

#[tokio::test]
async fn guest_notices_that_a_waiting_client_left() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(|_| Box::pin(std::future::pending())).await;
    let id = edge.sandbox(guest.ip());
    let mut client = edge.connect().await;
    let request = format!("GET / HTTP/1.1\r\nhost: {}-{id}.x\r\n\r\n", guest.port());
    client.write_all(request.as_bytes()).await.expect("sent");
    until("the guest's connection", || {
        guest.open.load(Ordering::SeqCst) == 1
    })
    .await;
    drop(client);
    until("the guest's connection to close", || {
        guest.open.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn guest_death_breaks_the_stream() {
    let edge = TestEdge::start().await;
    let (guest, feed) = streaming_guest().await;
    let id = edge.sandbox(guest.ip());
    feed.send("part".into()).await.expect("open");
    let mut response = edge.get(&id, guest.port(), "/").await;
    assert!(next_chunk(&mut response).await.is_some());
    drop(guest);
    assert!(
        next_chunk(&mut response)
            .await
            .expect("no clean end")
            .is_err()
    );
}

#[tokio::test]
async fn sandbox_end_breaks_streams_and_waits_and_is_then_not_found() {
    let edge = TestEdge::start().await;
    let (guest, feed) = streaming_guest().await;
    let waiting = Guest::start(|_| Box::pin(std::future::pending())).await;
    let id = edge.sandbox(guest.ip());
    feed.send("part".into()).await.expect("open");
    let mut response = edge.get(&id, guest.port(), "/").await;
    assert!(next_chunk(&mut response).await.is_some());
    let end = async {
        until("the waiting request", || {
            waiting.open.load(Ordering::SeqCst) == 1
        })
        .await;
        assert!(edge.routes.remove(&id));
    };
    let (answer, ()) = tokio::join!(edge.get(&id, waiting.port(), "/"), end);
    assert_eq!(answer.status(), 502);
    assert!(text(answer).await.contains("The sandbox was not found"));
    assert!(
        next_chunk(&mut response)
            .await
            .expect("no clean end")
            .is_err()
    );
    assert_eq!(edge.get(&id, guest.port(), "/").await.status(), 502);
    until("the guests' connections to close", || {
        guest.open.load(Ordering::SeqCst) + waiting.open.load(Ordering::SeqCst) == 0
    })
    .await;
}

/// A guest that closes a connection-delimited body looks like a clean end; the end
/// of the sandbox must not.
#[tokio::test]
async fn sandbox_end_breaks_a_body_without_length() {
    let edge = TestEdge::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let guest = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await.expect("a request");
        stream
            .write_all(b"HTTP/1.0 200 OK\r\n\r\npart")
            .await
            .expect("sent");
        stream.read_to_end(&mut Vec::new()).await
    });
    let id = edge.sandbox([127, 0, 0, 1].into());
    let mut response = edge.get(&id, port, "/").await;
    assert_eq!(
        next_chunk(&mut response).await.expect("more").expect("ok"),
        "part"
    );
    edge.routes.remove(&id);
    assert!(
        next_chunk(&mut response)
            .await
            .expect("no clean end")
            .is_err()
    );
    let _ = within("the guest to see the end", guest).await;
}

#[tokio::test]
async fn websockets_echo_and_close() {
    let edge = TestEdge::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let guest = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut socket = tokio_tungstenite::accept_async(stream)
            .await
            .expect("a handshake");
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.expect("sent");
            }
        }
    });
    let id = edge.sandbox([127, 0, 0, 1].into());
    let url = format!("ws://{port}-{id}.localhost/socket");
    let (mut socket, answer) = tokio_tungstenite::client_async(url, edge.connect().await)
        .await
        .expect("a handshake");
    assert_eq!(answer.status(), 101);
    for message in [
        Message::text("hello"),
        Message::binary(vec![7; 100]),
        Message::binary(vec![9; 3 << 20]),
    ] {
        socket.send(message.clone()).await.expect("sent");
        assert_eq!(
            within("the echo", socket.next())
                .await
                .expect("more")
                .expect("ok"),
            message
        );
    }
    assert_eq!(edge.edge.stats().open, 1);
    socket.close(None).await.expect("closes");
    within("the guest to see the close", guest)
        .await
        .expect("no panic");
    drop(socket);
    until("the tunnel's end", || edge.edge.stats().open == 0).await;
}

#[tokio::test]
async fn sandbox_end_breaks_a_tunnel() {
    let edge = TestEdge::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut socket = tokio_tungstenite::accept_async(stream)
            .await
            .expect("a handshake");
        while socket.next().await.is_some() {}
    });
    let id = edge.sandbox([127, 0, 0, 1].into());
    let url = format!("ws://{port}-{id}.localhost/");
    let (mut socket, _) = tokio_tungstenite::client_async(url, edge.connect().await)
        .await
        .expect("a handshake");
    edge.routes.remove(&id);
    let end = within("the end", socket.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
}

#[tokio::test]
async fn kept_connections_are_used_and_replaced_when_stale() {
    let edge = TestEdge::start().await;
    let agent = Guest::agent(echo).await;
    let (id, address) = (edge.sandbox(agent.ip()), agent.address);
    for _ in 0..5 {
        let request = routed(&id, AGENT_PORT, "/x")
            .method("POST")
            .body(full("body"));
        let answer = edge.send(request.expect("valid")).await;
        assert!(text(answer).await.ends_with("\n\nbody"));
    }
    assert_eq!(
        agent.accepted.load(Ordering::SeqCst),
        1,
        "one connection carried all"
    );

    // The agent starts anew on the same port: the kept connection is stale.
    let open = agent.open.clone();
    drop(agent);
    until("the old connections to close", || {
        open.load(Ordering::SeqCst) == 0
    })
    .await;
    let agent = Guest::at(address, echo).await;
    let request = routed(&id, AGENT_PORT, "/x")
        .method("POST")
        .body(full("again"));
    let answer = edge.send(request.expect("valid")).await;
    assert!(text(answer).await.ends_with("\n\nagain"));
    assert_eq!(agent.accepted.load(Ordering::SeqCst), 1);
}

/// A guest that hangs up instead of answering the second request of a connection.
#[tokio::test]
async fn a_connection_that_dies_under_an_idempotent_request_is_replaced() {
    let edge = TestEdge::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let guest = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await.expect("a request");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .expect("sent");
            // Takes the next request, if one comes, and hangs up.
            let _ = stream.read(&mut buffer).await;
        }
    });
    let id = edge.sandbox([127, 0, 0, 1].into());
    for _ in 0..2 {
        assert_eq!(text(edge.get(&id, port, "/").await).await, "ok");
    }
    guest.abort();
}

#[tokio::test]
async fn http2_clients_and_grpc_guests() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(|request| {
        Box::pin(async move {
            let version = format!(
                "{:?} te={:?}",
                request.version(),
                request.headers().get("te")
            );
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let body = Full::new(Bytes::from(version))
                .with_trailers(std::future::ready(Some(Ok(trailers))))
                .map_err(|never| match never {})
                .boxed();
            Ok(Response::new(body))
        })
    })
    .await;
    let id = edge.sandbox(guest.ip());
    let io = TokioIo::new(edge.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io)
            .await
            .expect("a handshake");
    tokio::spawn(connection);
    let request = |kind: &str| {
        Request::post(format!("http://{}-{id}.x.dev/service/Method", guest.port()))
            .header("content-type", kind)
            .header("te", "trailers")
            .body(Full::new(Bytes::from("payload")))
            .expect("valid")
    };
    for (kind, version) in [
        ("application/grpc+proto", "HTTP/2.0 te=Some(\"trailers\")"),
        ("application/grpc", "HTTP/2.0 te=Some(\"trailers\")"),
        ("application/json", "HTTP/1.1 te=None"),
    ] {
        let answer = within("an answer", sender.send_request(request(kind)))
            .await
            .expect("answers");
        let body = within("the body", answer.into_body().collect())
            .await
            .expect("whole");
        if kind.contains("grpc") {
            assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
        }
        assert_eq!(body.to_bytes(), version);
    }
    assert_eq!(
        guest.accepted.load(Ordering::SeqCst),
        2,
        "gRPC shares a connection"
    );
    edge.routes.remove(&id);
    let answer = sender
        .send_request(request("application/grpc"))
        .await
        .expect("answers");
    assert_eq!(answer.status(), 502);
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let limits = ServerConfig {
        header_timeout_ms: 300,
        idle_timeout_ms: 1200,
        ..ServerConfig::default()
    };
    let edge = TestEdge::with(EdgeConfig::default(), limits).await;
    let closed = |mut stream: tokio::net::TcpStream| async move {
        within("the close", stream.read_to_end(&mut Vec::new()))
            .await
            .ok();
    };
    // Nothing, half a preface, half a head.
    for start in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost: loc"] {
        let mut stream = edge.connect().await;
        stream.write_all(start.as_bytes()).await.expect("sent");
        closed(stream).await;
    }
    // A head that trickles in on a connection that has served a request.
    let mut stream = edge.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("sent");
    let mut buffer = [0; 4096];
    let count = within("the answer", stream.read(&mut buffer))
        .await
        .expect("reads");
    assert!(buffer[..count].starts_with(b"HTTP/1.1 200"));
    stream.write_all(b"GET / HT").await.expect("sent");
    closed(stream).await;
    // And an idle one.
    let mut stream = edge.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("sent");
    closed(stream).await;
}

#[tokio::test]
async fn open_streams_outlive_the_idle_timeout() {
    let limits = ServerConfig {
        header_timeout_ms: 100,
        idle_timeout_ms: 200,
        ..ServerConfig::default()
    };
    let edge = TestEdge::with(EdgeConfig::default(), limits).await;
    let (guest, feed) = streaming_guest().await;
    let id = edge.sandbox(guest.ip());
    feed.send("1".into()).await.expect("open");
    let mut response = edge.get(&id, guest.port(), "/").await;
    assert!(next_chunk(&mut response).await.is_some());
    // Several timeouts long, and nothing is sent.
    tokio::time::sleep(std::time::Duration::from_millis(900)).await;
    feed.send("2".into()).await.expect("open");
    assert_eq!(
        next_chunk(&mut response).await.expect("more").expect("ok"),
        "2"
    );
}

#[tokio::test]
async fn heads_have_a_largest_size() {
    let edge = TestEdge::start().await;
    let long = "x".repeat(80 * 1024);
    let answer = edge
        .raw(&format!(
            "GET / HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n"
        ))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 431 ") || answer.is_empty(),
        "{answer}"
    );
    assert!(!answer.contains("fallback"));
}

#[tokio::test]
async fn drain_lets_requests_end_and_cuts_the_rest() {
    for finishes in [true, false] {
        let limits = ServerConfig {
            drain_timeout_ms: if finishes { 20_000 } else { 300 },
            ..ServerConfig::default()
        };
        let edge = TestEdge::with(EdgeConfig::default(), limits).await;
        let (guest, feed) = streaming_guest().await;
        let id = edge.sandbox(guest.ip());
        feed.send("1".into()).await.expect("open");
        let mut response = edge.get(&id, guest.port(), "/").await;
        assert!(next_chunk(&mut response).await.is_some());
        edge.shutdown.cancel();
        until("the listener to close", || {
            std::net::TcpStream::connect(edge.address).is_err()
        })
        .await;
        if finishes {
            feed.send("2".into()).await.expect("open");
            assert_eq!(
                next_chunk(&mut response).await.expect("more").expect("ok"),
                "2"
            );
            drop(feed);
            assert!(next_chunk(&mut response).await.is_none());
        } else {
            assert!(
                next_chunk(&mut response)
                    .await
                    .expect("no clean end")
                    .is_err()
            );
        }
        let stopped = within("the server", edge.server).await.expect("no panic");
        assert_eq!(stopped.drained, finishes);
        within("the edge", edge.edge.shutdown()).await;
    }
}

#[tokio::test]
async fn a_new_life_of_a_sandbox_gets_a_new_lane() {
    let edge = TestEdge::start().await;
    let first = Guest::agent(|_| Box::pin(async { Ok(Response::new(full("first"))) })).await;
    let second = Guest::agent(|_| Box::pin(async { Ok(Response::new(full("second"))) })).await;
    let id = edge.sandbox(first.ip());
    assert_eq!(
        text(edge.send(get(&id, AGENT_PORT, "/")).await).await,
        "first"
    );
    edge.routes.insert(
        id.clone(),
        Route::new(second.ip(), CancellationToken::new()),
    );
    assert_eq!(
        text(edge.send(get(&id, AGENT_PORT, "/")).await).await,
        "second"
    );
}

/// Sends a whole upload before looking at the answer, as simple clients do.
async fn upload(edge: &TestEdge, host: &str, length: usize) -> String {
    let mut client = edge.connect().await;
    let head = format!("POST /files HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("sent");
    let chunk = vec![0x61; 64 << 10];
    for _ in 0..length / chunk.len() {
        within("the upload", client.write_all(&chunk))
            .await
            .expect("taken");
    }
    let mut buffer = [0; 4096];
    let count = within("an answer", client.read(&mut buffer))
        .await
        .expect("an answer");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[tokio::test]
async fn refused_uploads_get_their_answer() {
    let config = EdgeConfig {
        dial_retry_ms: Vec::new(),
        ..EdgeConfig::default()
    };
    let edge = TestEdge::with(config, ServerConfig::default()).await;
    let unknown = hearth_ids::SandboxId::random();
    let answer = upload(&edge, &format!("{AGENT_PORT}-{unknown}.x"), 16 << 20).await;
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("was not found"),
        "{answer}"
    );

    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let id = edge.sandbox([127, 0, 0, 1].into());
    let answer = upload(&edge, &format!("{port}-{id}.x"), 16 << 20).await;
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("port is not open"),
        "{answer}"
    );
}

/// A guest that answers an upload after its head and hangs up.
#[tokio::test]
async fn early_answers_of_guests_are_not_lost() {
    let edge = TestEdge::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let guest = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await.expect("a request");
            let answer = "HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 4\r\n\r\nfull";
            stream.write_all(answer.as_bytes()).await.expect("sent");
        }
    });
    let id = edge.sandbox([127, 0, 0, 1].into());
    for _ in 0..20 {
        let request = routed(&id, port, "/files")
            .method("POST")
            .body(full(vec![1; 8 << 20]));
        let answer = edge.send(request.expect("valid")).await;
        assert_eq!(answer.status(), 507);
        assert_eq!(text(answer).await, "full");
    }
    guest.abort();
}
