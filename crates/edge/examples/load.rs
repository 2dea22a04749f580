//! Requests per second, latency and throughput through the edge, next to the same
//! load sent to the guest's server directly. Client, edge and server share this
//! process and machine, so the two columns compare; alone they mean little.
//!
//! `cargo run --profile fast -p hearth-edge --example load -- [CONNECTIONS] [SECONDS]`

use bytes::Bytes;
use hearth_edge::{
    AGENT_PORT, ConnectionThreads, Edge, EdgeConfig, Route, RouteTable, ServerConfig, serve,
};
use hearth_ids::SandboxId;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Either, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A loopback address of its own, on the agent's port.
const GUEST: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(Ipv4Addr::new(127, 49, 9, 83)),
    AGENT_PORT,
);
const DOWNLOAD: u64 = 1 << 30;
const CHUNK: usize = 64 << 10;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let connections = numbers.next().transpose()?.unwrap_or(32);
    let seconds = numbers.next().transpose()?.unwrap_or(5);
    let stop = CancellationToken::new();
    tokio::spawn(guest(TcpListener::bind(GUEST).await?));
    let routes = Arc::new(RouteTable::default());
    let id = SandboxId::random();
    routes.insert(id.clone(), Route::new(GUEST.ip(), CancellationToken::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let edge_address = listener.local_addr()?;
    let edge = Edge::new(routes, EdgeConfig::default());
    tokio::spawn(serve(
        listener,
        edge.alone(),
        ServerConfig::default(),
        ConnectionThreads::start(0)?,
        stop.clone(),
    ));
    let host = format!("{AGENT_PORT}-{id}.localhost");
    for (name, address) in [("direct", GUEST), ("edge", edge_address)] {
        for connections in [1, connections] {
            let time = Duration::from_secs(seconds);
            let mut latencies = load(address, &host, connections, time).await?;
            latencies.sort_unstable();
            let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
            println!(
                "{name:6}  {connections:3} connections  {:8.0} requests/s  p50 {:?}  p99 {:?}",
                latencies.len() as f64 / time.as_secs_f64(),
                at(50),
                at(99),
            );
        }
        let rate = download(address, &host).await?;
        println!("{name:6}  1 GiB download  {rate:.0} MiB/s");
    }
    stop.cancel();
    Ok(())
}

async fn guest(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
            let body = if request.uri().path() == "/large" {
                let chunk = Bytes::from(vec![0x5a; CHUNK]);
                let count = usize::try_from(DOWNLOAD).unwrap_or(usize::MAX) / CHUNK;
                let chunks = std::iter::repeat_n(chunk, count)
                    .map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
                Either::Left(StreamBody::new(futures::stream::iter(chunks)))
            } else {
                Either::Right(Full::new(Bytes::from_static(b"hello\n")))
            };
            Ok::<_, Infallible>(Response::new(body))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn connect(address: SocketAddr) -> Result<http1::SendRequest<Empty<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn request(host: &str, path: &str) -> Result<Request<Empty<Bytes>>, Failure> {
    Ok(Request::get(path).header("host", host).body(Empty::new())?)
}

/// Sends requests over as many connections for a time; returns their latencies.
async fn load(
    address: SocketAddr,
    host: &str,
    connections: u64,
    time: Duration,
) -> Result<Vec<Duration>, Failure> {
    let end = Instant::now() + time;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let host = host.to_owned();
        clients.spawn(async move {
            let mut sender = connect(address).await?;
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let started = Instant::now();
                let response = sender.send_request(request(&host, "/")?).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                if status != 200 || body != "hello\n" {
                    return Err(format!("{status}: {body:?}").into());
                }
                latencies.push(started.elapsed());
                sender.ready().await?;
            }
            Ok::<_, Failure>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = clients.join_next().await {
        all.extend(latencies??);
    }
    Ok(all)
}

/// Reads the large body; MiB per second.
async fn download(address: SocketAddr, host: &str) -> Result<f64, Failure> {
    let mut sender = connect(address).await?;
    let started = Instant::now();
    let response = sender.send_request(request(host, "/large")?).await?;
    let mut body = response.into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    if total != DOWNLOAD {
        return Err(format!("{total} bytes came").into());
    }
    Ok(total as f64 / 1048576.0 / started.elapsed().as_secs_f64())
}
