//! `hearth bench`: measurements, as a table or as JSON.

use super::client;
use crate::{daemon, settings::Settings};
use clap::Subcommand;
use hearth_client::bench::{Report, TtiPlan, tti};
use std::process::ExitCode;

mod bare;

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
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let Command::Tti { runs, json } = args.command;
    let plan = TtiPlan {
        runs: usize::try_from(runs)?,
        ..TtiPlan::default()
    };
    let bare = bare::restores(settings, plan.runs).await?;
    let mut report: Report = tti(&client(settings)?, &plan, |_, _| {}).await?;
    report.push("bare restore", &bare);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
        if let (Some(create), Some(bare)) = (report.row("create"), report.row("bare restore")) {
            println!(
                "create p50 is {:.2} × the bare restore's",
                create.p50_ms / bare.p50_ms
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
