//! `hearth bench`: measurements, as a table or as JSON.

use super::client;
use crate::{daemon, settings::Settings};
use clap::Subcommand;
use hearth_client::bench::{Report, TtiPlan, tti};
use std::{process::ExitCode, time::Duration};

mod bare;
mod density;
mod edge;
mod lifecycle;
mod network;
mod template;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Time to interactive: create → first output of a command, through the API,
    /// beside bare restores of the same snapshot
    Tti {
        /// Sandboxes to create, one after another
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        runs: u32,
        /// Milliseconds between two sandboxes. With 0 the machine makes sandboxes
        /// ahead more slowly than they are used up
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
        pause_ms: u64,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Memory of sandboxes that are alive at once, each after its first command
    Density {
        /// Sandboxes to keep alive
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        sandboxes: u32,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Pause, resume, snapshot and fork, by memory written, beside fresh starts
    Lifecycle {
        /// Runs of each step
        #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// MiB of memory that the sandbox writes before
        #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 500])]
        dirtied: Vec<u32>,
        /// Copies started at once from one snapshot
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 50])]
        forks: Vec<usize>,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// The edge beside nginx: requests, a download, and the memory of WebSockets
    Edge(edge::Args),
    /// Template builds: steps, cached and not; an image of 500 MiB beside `tar` and
    /// `mke2fs`; the first `run_code` beside the first command
    Template(template::Args),
    #[command(hide = true)]
    EdgePart(edge::PartArgs),
    /// The sandbox network: slots taken and given back, and the latency of the way out
    Network(network::Args),
    #[command(hide = true)]
    NetworkPart(network::Args),
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let (runs, pause_ms, json) = match args.command {
        Command::Tti {
            runs,
            pause_ms,
            json,
        } => (runs, pause_ms, json),
        Command::Density { sandboxes, json } => {
            let report = density::measure(settings, sandboxes).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{report}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::Lifecycle {
            runs,
            dirtied,
            forks,
            json,
        } => {
            let plan = lifecycle::Plan {
                runs: usize::try_from(runs)?,
                dirtied_mib: dirtied,
                forks,
            };
            let report = lifecycle::measure(settings, &plan).await?;
            print_report(&report, json)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Edge(args) => return edge::run(args).await,
        Command::Template(args) => {
            let report = template::measure(settings, &args).await?;
            print_report(&report, args.json)?;
            if !args.json {
                template::compare(&report);
            }
            return Ok(ExitCode::SUCCESS);
        }
        Command::EdgePart(args) => return edge::run_part(args).await,
        Command::Network(args) => return network::run(&args),
        Command::NetworkPart(args) => return network::run_part(args).await,
    };
    let plan = TtiPlan {
        runs: usize::try_from(runs)?,
        pause: Duration::from_millis(pause_ms),
        ..TtiPlan::default()
    };
    let bare = bare::restores(settings, plan.runs).await?;
    let mut report: Report = tti(&client(settings)?, &plan, |_, _| {}).await?;
    report.push("bare restore", &bare);
    print_report(&report, json)?;
    if !json && let (Some(create), Some(bare)) = (report.row("create"), report.row("bare restore"))
    {
        println!(
            "create p50 is {:.2} × the bare restore's",
            create.p50_ms / bare.p50_ms
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn print_report(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
