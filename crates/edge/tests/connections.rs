//! Connections on both sides: kept, replaced, limited in time and size, drained.

mod support;

use bytes::Bytes;
use hearth_edge::{AGENT_PORT, EdgeConfig, Route, ServerConfig};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::Ordering;
use support::stream::{next_chunk, streaming_guest};
use support::{Guest, TestEdge, echo, full, get, routed, text, until, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn kept_connections_are_used_and_replaced_when_stale() {
    // Kept connections are a thread's own.
    let edge = TestEdge::with(EdgeConfig::default(), ServerConfig::default()).await;
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
    let edge = TestEdge::with(EdgeConfig::default(), ServerConfig::default()).await;
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
    // Nothing is sent while connections that came later are closed for being idle.
    for _ in 0..3 {
        let mut idle = edge.connect().await;
        idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        within("the close", idle.read_to_end(&mut answer))
            .await
            .expect("a clean end");
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
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
