//! The sandbox network: how long slots take, and what the way out costs a guest. All
//! of it in namespaces of its own, so that it measures beside a running node and
//! leaves nothing; no VM is involved.

mod guest;
mod latency;
mod slots;

use anyhow::{Context, ensure};
use hearth_network::NetworkConfig;
use serde::Serialize;
use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

/// Taking and giving back a slot may take so long.
const WANTED_SLOT_MS: f64 = 5.0;
/// What rules with names may add.
const WANTED_NAMES_MS: f64 = 2.0;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Slots that are held meanwhile
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 500])]
    slots: Vec<u32>,
    /// Slots taken and given back with each
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Requests whose time is measured, under each kind of rules
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    requests: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    slots: Vec<slots::Figures>,
    latency: latency::Figures,
}

/// Milliseconds.
#[derive(Serialize, Clone, Copy)]
struct Distribution {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Distribution {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let place = times.len().saturating_sub(1) * percent / 100;
            times
                .get(place)
                .map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// Runs the measurement in new namespaces.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let list = args.slots.iter().map(u32::to_string).collect::<Vec<_>>();
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(["network-part", "--slots", &list.join(",")])
        .args(["-n", &args.runs.to_string()])
        .args(["--requests", &args.requests.to_string()]);
    if args.json {
        command.arg("--json");
    }
    let status = command
        .stdin(Stdio::null())
        .status()
        .context("run unshare (util-linux)")?;
    ensure!(
        status.success(),
        "the measurement failed: it needs root, `ip` and `nft`"
    );
    Ok(ExitCode::SUCCESS)
}

/// The measurement, in the namespaces.
pub async fn run_part(args: Args) -> anyhow::Result<ExitCode> {
    ensure!(
        std::fs::read_to_string("/proc/net/route")?.lines().count() <= 1,
        "this host has routes: use `hearth-bench network`"
    );
    sh("mount -t tmpfs none /run && mkdir -p /run/netns && ip link set lo up")?;
    guest::make_outside()?;
    let mut measured = Vec::new();
    for held in &args.slots {
        eprintln!("{held} slots");
        measured.push(slots::measure(*held, args.runs).await?);
    }
    eprintln!("the way out");
    let report = Report {
        slots: measured,
        latency: latency::measure(args.requests).await?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &Report) {
    println!("{:<42}{:>9}{:>9}{:>9}", "ms", "p50", "p99", "max");
    let row = |name: &str, figures: &Distribution| {
        println!(
            "{name:<42}{:>9.3}{:>9.3}{:>9.3}",
            figures.p50, figures.p99, figures.max
        );
    };
    for slots in &report.slots {
        row(&format!("take, {} held", slots.held), &slots.take);
        row(&format!("give back, {} held", slots.held), &slots.release);
        row(
            &format!("close its network, {} held", slots.held),
            &slots.policy,
        );
    }
    println!("(wanted: a take and a release ≤ {WANTED_SLOT_MS} ms)");
    for way in &report.latency.ways {
        row(&format!("connect and ask, {}", way.rules), &way.connection);
        row(&format!("ask again, {}", way.rules), &way.request);
    }
    println!(
        "Rules with addresses add {:+.3} ms to a connection's p50, rules with names {:+.3} ms \
         (wanted: 0 and ≤ {WANTED_NAMES_MS} ms); to a request on an open connection {:+.3} and \
         {:+.3} ms.",
        report.latency.added_by_addresses_ms,
        report.latency.added_by_names_ms,
        report.latency.request_added_by_addresses_ms,
        report.latency.request_added_by_names_ms,
    );
}

fn configuration(max_slots: u32, state: &str) -> NetworkConfig {
    NetworkConfig {
        state_dir: Path::new("/run").join(state),
        pool_size: 8,
        max_slots,
        nameservers: Some(vec![guest::NAME_SERVER.into()]),
        ..NetworkConfig::default()
    }
}

fn sh(script: &str) -> anyhow::Result<()> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", complaint.trim());
    Ok(())
}
