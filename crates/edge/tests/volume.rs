//! Large bodies and many connections, in a process of their own: its memory is
//! measured.

mod support;

use bytes::Bytes;
use futures::StreamExt as _;
use hearth_edge::BoxError;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{Guest, TestEdge, full, routed, text, until, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LARGE: usize = 256 << 20;
const CHUNK: usize = 64 << 10;
/// What passing a large body may add to the process, which is client, edge and
/// guest at once. The body is eight times as large.
const ALLOWED: u64 = 32 << 20;

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("readable");
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("the second number");
    pages * 4096
}

/// Samples the process' memory until dropped.
struct Peak(Arc<AtomicU64>, Arc<AtomicBool>);

impl Peak {
    fn watch() -> Self {
        let (peak, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (seen, stopped) = (peak.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                seen.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        Self(peak, stop)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

fn chunks() -> impl futures::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send + Sync {
    let chunk = Bytes::from(vec![0x5a; CHUNK]);
    futures::stream::iter(std::iter::repeat_n(chunk, LARGE / CHUNK))
        .map(|chunk| Ok(Frame::data(chunk)))
}

async fn count(mut body: hyper::body::Incoming) -> io::Result<usize> {
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        total += frame.data_ref().map_or(0, Bytes::len);
    }
    Ok(total)
}

/// One test, so that nothing else of this binary uses memory meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_small() {
    let edge = TestEdge::start().await;
    let guest = Guest::start(|request| {
        Box::pin(async move {
            if request.method() == http::Method::GET {
                return Ok(Response::new(BodyExt::boxed(StreamBody::new(chunks()))));
            }
            Ok(Response::new(full(
                count(request.into_body()).await?.to_string(),
            )))
        })
    })
    .await;
    let (id, port) = (edge.sandbox(guest.ip()), guest.port());
    let before = resident();
    let peak = Peak::watch();

    let answer = edge.get(&id, port, "/large").await;
    let received = within("the download", count(answer.into_body())).await;
    assert_eq!(received.expect("whole"), LARGE);

    let request = routed(&id, port, "/large")
        .method("POST")
        .body(BodyExt::boxed(StreamBody::new(chunks())))
        .expect("valid");
    assert_eq!(text(edge.send(request).await).await, LARGE.to_string());

    let used = peak.0.load(Ordering::Relaxed).saturating_sub(before);
    assert!(
        used < ALLOWED,
        "{} MiB for {} MiB bodies",
        used >> 20,
        LARGE >> 20
    );

    many_tunnels(&edge).await;
}

/// 2,000 clients that switched protocols and then say nothing: 4,000 sockets of
/// the edge, and as many of clients and guest in this process.
async fn many_tunnels(edge: &TestEdge) {
    const TUNNELS: usize = 2000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let needed = rustix::process::Rlimit {
        current: limit.maximum.or(Some(65_536)),
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, needed).expect("raised");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let guest = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut head = [0; 2048];
            let _ = stream.read(&mut head).await.expect("a request");
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("sent");
            open.push(stream);
        }
    });
    let id = edge.sandbox([127, 0, 0, 1].into());
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {port}-{id}.x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
    );
    let before = resident();
    let mut clients = Vec::with_capacity(TUNNELS);
    for _ in 0..TUNNELS {
        let mut client = edge.connect().await;
        client.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = [0; 512];
        let count = within("the switch", client.read(&mut answer))
            .await
            .expect("answers");
        assert!(answer[..count].starts_with(b"HTTP/1.1 101"));
        clients.push(client);
    }
    assert_eq!(edge.edge.stats().open, TUNNELS);
    let used = resident().saturating_sub(before);
    println!(
        "{TUNNELS} idle tunnels: {} KiB each",
        used / TUNNELS as u64 / 1024
    );
    assert!(used < 40 << 20, "{} MiB", used >> 20);
    // They all end with the sandbox.
    edge.routes.remove(&id);
    until("the tunnels to end", || edge.edge.stats().open == 0).await;
    for mut client in clients {
        let mut rest = Vec::new();
        let _ = within("the end", client.read_to_end(&mut rest)).await;
    }
    guest.abort();
}
