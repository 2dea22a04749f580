//! `hearth doctor`: prints the checks; the exit code says whether Hearth can run.

use crate::{
    daemon,
    doctor::{self, Check, Verdict},
    settings::Settings,
};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let checks = doctor::examine(settings).await;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        checks.iter().for_each(print);
    }
    if doctor::passed(&checks) {
        if !args.json {
            println!("\nThis machine can run Hearth.");
        }
        Ok(ExitCode::SUCCESS)
    } else {
        if !args.json {
            println!("\nThis machine cannot run Hearth yet: see the lines marked FAILED.");
        }
        Ok(ExitCode::FAILURE)
    }
}

/// One check, and under it what mends it.
pub fn print(check: &Check) {
    let mark = match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "note",
        Verdict::Failed => "FAILED",
    };
    println!("{mark:>6}  {:<20} {}", check.name, check.detail);
    if !check.fix.is_empty() {
        println!("{:>6}  {:<20} → {}", "", "", check.fix);
    }
}
