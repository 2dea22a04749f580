//! The benchmark's servers, each in a process of its own: this program, called
//! again. A part prints its port and ends when its standard input does.

use crate::processes::processor_time;
use anyhow::{Context, bail};
use axum::{
    body::Body,
    extract::{Path as UrlPath, ws::WebSocketUpgrade},
    routing::get,
};
use bytes::Bytes;
use hearth_edge::{ConnectionThreads, Edge, EdgeConfig, Route, RouteTable, ServerConfig};
use hearth_ids::SandboxId;
use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The sandbox that the benchmark's edge knows.
pub const SANDBOX: &str = "ibench000000000000000";
/// Size of a streamed answer's pieces.
const PIECE: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub struct PartArgs {
    #[arg(value_parser = ["echo", "edge", "plain-edge"])]
    role: String,
    upstream: Option<u16>,
    chain: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// A running part.
pub struct Part {
    child: Child,
    pub port: u16,
}

impl Part {
    pub fn start(role: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["edge-part", role])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start the {role} part"))?;
        let stdout = child.stdout.take().context("read the part's port")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Ok(port) = line.trim().parse() else {
            let _ = child.kill();
            child.wait()?;
            bail!("the {role} part did not start");
        };
        Ok(Self { child, port })
    }

    /// What its threads have used of the processors so far.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        processor_time(self.child.id())
    }

    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"))
            .context("read the part's memory")?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It ends by its closed input; this is for one that hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn run_part(args: PartArgs) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let stop = CancellationToken::new();
    let limits = ServerConfig {
        drain_timeout_ms: 0,
        ..ServerConfig::default()
    };
    let server = if args.role == "echo" {
        let serving = hearth_edge::serve(
            listener,
            echo(),
            limits,
            ConnectionThreads::none(),
            stop.clone(),
        );
        tokio::spawn(serving)
    } else {
        let routes = RouteTable::default();
        let id = SandboxId::parse_client(SANDBOX)?;
        let route = Route::new(Ipv4Addr::LOCALHOST.into(), CancellationToken::new());
        routes.insert(id, route);
        let service = Edge::new(Arc::new(routes), EdgeConfig::default()).alone();
        let cores = ConnectionThreads::start(limits.threads)?;
        if args.role == "edge" {
            let chain = args.chain.context("no certificate is named")?;
            let key = args.key.context("no key is named")?;
            let certificates = hearth_tls::Certificates::given(&chain, &key)?;
            let tls = Arc::new(hearth_tls::server_config(Arc::new(certificates))?);
            let serving =
                hearth_edge::serve_tls(listener, service, limits, cores, tls, stop.clone());
            tokio::spawn(serving)
        } else {
            let serving = hearth_edge::serve(listener, service, limits, cores, stop.clone());
            tokio::spawn(serving)
        }
    };
    println!("{port}");
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;
    stop.cancel();
    server.await?;
    Ok(ExitCode::SUCCESS)
}

/// Answers `/` with a few bytes, `/bytes/{n}` with many, `/ws` as a WebSocket.
fn echo() -> axum::Router {
    let websocket = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(message)) = socket.recv().await {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        })
    };
    axum::Router::new()
        .route("/", get(async || "hello from behind the proxy\n"))
        .route("/bytes/{count}", get(bytes))
        .route("/ws", get(websocket))
}

async fn bytes(UrlPath(count): UrlPath<u64>) -> ([(&'static str, String); 1], Body) {
    static PIECES: [u8; PIECE] = [b'x'; PIECE];
    let body = futures::stream::unfold(count, |left| async move {
        let next = left.min(PIECE as u64);
        let piece = Bytes::from_static(&PIECES[..usize::try_from(next).ok()?]);
        (next > 0).then_some((Ok::<_, std::convert::Infallible>(piece), left - next))
    });
    (
        [("content-length", count.to_string())],
        Body::from_stream(body),
    )
}
