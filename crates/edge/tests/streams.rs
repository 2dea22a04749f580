//! Bodies, streams and tunnels: passed on at once, and broken off on either side's
//! end.

mod support;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use hearth_edge::{AGENT_PORT, BoxError, EdgeConfig, ServerConfig};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::io;
use std::sync::atomic::Ordering;
use support::stream::{SyncStream, next_chunk, streaming_guest};
use support::{Answer, Guest, TestEdge, full, routed, text, until, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

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
