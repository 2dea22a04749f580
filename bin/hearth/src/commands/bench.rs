//! `hearth bench`: how fast Hearth is on this machine, as a table or as JSON. More
//! measurements, for those who work on Hearth, are in `hearth-bench`.

use super::client;
use crate::{daemon, settings::Settings};
use clap::Subcommand;
use hearth_measure::{
    Report, TtiPlan,
    engine::{Plan, restores},
    tti,
};
use std::{process::ExitCode, time::Duration};

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
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let Command::Tti {
        runs,
        pause_ms,
        json,
    } = args.command;
    let plan = TtiPlan {
        runs: usize::try_from(runs)?,
        pause: Duration::from_millis(pause_ms),
        ..TtiPlan::default()
    };
    let engine = daemon::engine::start(settings).await?;
    anyhow::ensure!(
        engine.capabilities().disk == hearth_machine::DiskKind::NbdSocket,
        "the bare restore is measured under QEMU alone: set node.engine = \"qemu\""
    );
    let work = settings.run_dir.join("bench");
    let bare = restores(
        engine.as_ref(),
        &settings.builds_dir(),
        &work,
        plan.runs,
        Plan::Restore,
    )
    .await?;
    let mut report: Report = tti(&client(settings)?, &plan, |_, _| {}).await?;
    report.push("bare restore", &bare.restore);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{report}");
    if let (Some(create), Some(bare)) = (report.row("create"), report.row("bare restore")) {
        println!(
            "create p50 is {:.2} × the bare restore's",
            create.p50_ms / bare.p50_ms
        );
    }
    Ok(ExitCode::SUCCESS)
}
