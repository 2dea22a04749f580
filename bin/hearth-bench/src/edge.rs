//! The edge beside nginx: two reverse proxies with the same certificate and TLS
//! versions in front of the same server on this host, in processes of their own,
//! measured in turns by the same client. No sandbox is involved.

mod load;
mod nginx;
mod parts;

use anyhow::Context;
use load::{Target, Throughput};
use nginx::Nginx;
use parts::Part;
pub use parts::{PartArgs, run_part};
use serde::Serialize;
use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

/// The edge is to reach this part of nginx' speed.
const WANTED_RATIO: f64 = 0.8;
/// What the edge's process may grow by with all WebSockets open.
const WANTED_MIB: f64 = 40.0;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each proxy is measured, in turns
    #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of one measurement of requests
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Connections that send requests, each the next when the last is answered
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Size of the download in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65536))]
    download_mib: u64,
    /// Idle WebSockets whose memory is measured
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    websockets: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Default)]
struct Proxy {
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Time of processor that the proxy takes for one request.
    cpu_us_per_request: f64,
    download_mib_per_second: f64,
}

#[derive(Serialize)]
struct Report {
    /// This program was built without optimisation: the figures say little.
    unoptimised: bool,
    download_mib: u64,
    edge: Proxy,
    nginx: Option<Proxy>,
    /// The edge's part of nginx' figure.
    requests_ratio: Option<f64>,
    download_ratio: Option<f64>,
    websockets: u32,
    /// Growth of the edge's resident memory, in MiB, with TLS and without.
    websockets_tls_mib: f64,
    websockets_plain_mib: f64,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) {
        note("built without optimisation: TLS is several times slower than it will be");
    }
    let folder = Folder::create()?;
    let authority = hearth_tls::Authority::open_or_create(&folder.0, "localhost")?;
    let (chain, key) = authority.issue_pem(&["localhost".to_owned()])?;
    let (chain_path, key_path) = (folder.0.join("chain.pem"), folder.0.join("key.pem"));
    std::fs::write(&chain_path, chain)?;
    std::fs::write(&key_path, key)?;
    let echo = Part::start("echo", &[])?;
    let upstream = echo.port.to_string();
    let edge = Part::start(
        "edge",
        &[
            &upstream,
            &chain_path.to_string_lossy(),
            &key_path.to_string_lossy(),
        ],
    )?;
    let nginx = Nginx::start(&folder.0, echo.port)?;
    if nginx.is_none() {
        note("no nginx to compare with: apt-get install nginx-light");
    }
    let host = format!("{upstream}-{}.localhost", parts::SANDBOX);
    let target = |port| Target::new(port, &host, authority.pem());
    let edge_target = target(edge.port)?;
    let nginx_target = nginx.as_ref().map(|nginx| target(nginx.port)).transpose()?;

    let mut edge_rounds = Vec::new();
    let mut nginx_rounds = Vec::new();
    for number in 1..=args.rounds {
        note(&format!("round {number} of {}", args.rounds));
        edge_rounds.push(
            round(&edge_target, &args, &|| edge.processor_time())
                .await
                .context("measure the edge")?,
        );
        if let (Some(target), Some(nginx)) = (&nginx_target, &nginx) {
            let measured = round(target, &args, &|| nginx.processor_time()).await;
            nginx_rounds.push(measured.context("measure nginx")?);
        }
    }
    let edge_figures = medians(&edge_rounds);
    let nginx_figures = (!nginx_rounds.is_empty()).then(|| medians(&nginx_rounds));
    note(&format!("{} WebSockets", args.websockets));
    // A process that has done nothing yet: growth is the WebSockets' alone.
    let (tls_mib, plain_mib) = memory(&args, &upstream, &chain_path, &key_path, &target).await?;
    let ratio = |of: fn(&Proxy) -> f64| {
        nginx_figures
            .as_ref()
            .map(|nginx| of(&edge_figures) / of(nginx))
    };
    let report = Report {
        unoptimised: cfg!(debug_assertions),
        download_mib: args.download_mib,
        requests_ratio: ratio(|proxy| proxy.requests_per_second),
        download_ratio: ratio(|proxy| proxy.download_mib_per_second),
        edge: edge_figures,
        nginx: nginx_figures,
        websockets: args.websockets,
        websockets_tls_mib: tls_mib,
        websockets_plain_mib: plain_mib,
    };
    print(&report, args.json)?;
    Ok(ExitCode::SUCCESS)
}

async fn round(
    target: &Target,
    args: &Args,
    processor_time: &dyn Fn() -> anyhow::Result<Duration>,
) -> anyhow::Result<Proxy> {
    let before = processor_time()?;
    let Throughput {
        requests,
        requests_per_second,
        p50,
        p99,
    } = load::requests(target, args.connections, Duration::from_secs(args.seconds)).await?;
    let spent = processor_time()?.saturating_sub(before);
    let begun = Instant::now();
    load::download(target, args.download_mib << 20).await?;
    Ok(Proxy {
        requests_per_second,
        p50_ms: p50.as_secs_f64() * 1e3,
        p99_ms: p99.as_secs_f64() * 1e3,
        cpu_us_per_request: spent.as_secs_f64() * 1e6 / requests as f64,
        download_mib_per_second: args.download_mib as f64 / begun.elapsed().as_secs_f64(),
    })
}

fn medians(rounds: &[Proxy]) -> Proxy {
    let median = |of: fn(&Proxy) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Proxy {
        requests_per_second: median(|proxy| proxy.requests_per_second),
        p50_ms: median(|proxy| proxy.p50_ms),
        p99_ms: median(|proxy| proxy.p99_ms),
        cpu_us_per_request: median(|proxy| proxy.cpu_us_per_request),
        download_mib_per_second: median(|proxy| proxy.download_mib_per_second),
    }
}

/// Growth of a fresh edge with all WebSockets open: with TLS, and without.
async fn memory(
    args: &Args,
    upstream: &str,
    chain: &Path,
    key: &Path,
    target: &impl Fn(u16) -> anyhow::Result<Target>,
) -> anyhow::Result<(f64, f64)> {
    let mut grown = Vec::new();
    for role in ["edge", "plain-edge"] {
        let part = Part::start(
            role,
            &[upstream, &chain.to_string_lossy(), &key.to_string_lossy()],
        )?;
        let target = target(part.port)?.with_tls(role == "edge");
        // What the first connections make once is not what the others cost.
        drop(load::websockets(&target, 8).await?);
        let before = part.resident_mib()?;
        let sockets = load::websockets(&target, args.websockets).await?;
        grown.push(part.resident_mib()? - before);
        drop(sockets);
    }
    Ok((grown[0], grown[1]))
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    println!(
        "{:<26}{:>12}{:>12}{:>10}{:>10}",
        "", "edge", "nginx", "ratio", "wanted"
    );
    type Row = (&'static str, fn(&Proxy) -> f64, Option<f64>);
    let rows: [Row; 5] = [
        (
            "requests/s",
            |proxy| proxy.requests_per_second,
            report.requests_ratio,
        ),
        ("p50 (ms)", |proxy| proxy.p50_ms, None),
        ("p99 (ms)", |proxy| proxy.p99_ms, None),
        (
            "processor/request (µs)",
            |proxy| proxy.cpu_us_per_request,
            None,
        ),
        (
            "download (MiB/s)",
            |proxy| proxy.download_mib_per_second,
            report.download_ratio,
        ),
    ];
    for (name, of, ratio) in rows {
        let nginx = report
            .nginx
            .as_ref()
            .map_or("-".into(), |nginx| format!("{:.1}", of(nginx)));
        let (ratio, wanted) = ratio.map_or(Default::default(), |ratio| {
            (format!("{ratio:.2}"), format!("≥ {WANTED_RATIO}"))
        });
        println!(
            "{name:<26}{:>12.1}{nginx:>12}{ratio:>10}{wanted:>10}",
            of(&report.edge)
        );
    }
    println!(
        "{} idle WebSockets: {:.1} MiB with TLS, {:.1} MiB without (wanted: ≤ {WANTED_MIB} MiB)",
        report.websockets, report.websockets_tls_mib, report.websockets_plain_mib
    );
    println!(
        "A download is {} MiB, each figure the median of its rounds.",
        report.download_mib
    );
    if report.nginx.is_none() {
        println!("There is no nginx here to compare with: apt-get install nginx-light");
    }
    Ok(())
}

/// What is going on, for whoever waits.
fn note(text: &str) {
    eprintln!("{text}");
}

/// A folder that goes with this value.
struct Folder(std::path::PathBuf);

impl Folder {
    fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("hearth-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind is in the folder for such.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
