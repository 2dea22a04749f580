//! `hearth-bench`: measurements of a Hearth on this machine and of its parts, as a table
//! or as JSON. For those who work on Hearth; nothing installs it.
//!
//! `hearth bench tti` measures time to interactive; it comes with the product.

#![forbid(unsafe_code)]
#![expect(
    unreachable_pub,
    reason = "in a binary, `pub` says what a module offers to its neighbours"
)]

mod burst;
mod density;
mod descriptors;
mod edge;
mod engine;
mod installation;
mod lifecycle;
mod network;
mod processes;
mod template;

use clap::{Parser, Subcommand};
use hearth_measure::Report;
use installation::Installation;
use std::process::ExitCode;

/// Measurements of a Hearth on this machine, and of its parts alone.
#[derive(Debug, Parser)]
#[command(name = "hearth-bench", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    installation: Installation,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Memory of sandboxes that are alive at once, each after its first command
    Density {
        /// Sandboxes to keep alive
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        sandboxes: u32,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Sandboxes created at once, each answering a command, beside what one costs alone
    Burst {
        /// Sandboxes at once
        #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 20])]
        sandboxes: Vec<usize>,
        /// Print JSON instead of a table
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
    /// The engine alone: restore, pause and save, search for written memory, stop
    Engine {
        /// Restores of the newest base build, one after another
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hearth-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    descriptors::raise()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&cli.installation, cli.command))
}

async fn measure(installation: &Installation, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Density { sandboxes, json } => {
            let report = density::measure(installation, sandboxes).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{report}");
            }
        }
        Command::Burst { sandboxes, json } => {
            let report = burst::measure(installation, &sandboxes).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{report}");
            }
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
            let report = lifecycle::measure(installation, &plan).await?;
            print_report(&report, json)?;
        }
        Command::Engine { runs, json } => {
            let report = engine::measure(installation, usize::try_from(runs)?).await?;
            print_report(&report, json)?;
        }
        Command::Edge(args) => return edge::run(args).await,
        Command::Template(args) => {
            let report = template::measure(installation, &args).await?;
            print_report(&report, args.json)?;
            if !args.json {
                template::compare(&report);
            }
        }
        Command::EdgePart(args) => return edge::run_part(args).await,
        Command::Network(args) => return network::run(&args),
        Command::NetworkPart(args) => return network::run_part(args).await,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
