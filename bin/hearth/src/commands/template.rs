//! `hearth template`: what sandboxes start from.

use crate::{
    daemon::{self, lock, lock::Lock, prepare},
    progress::Bars,
    settings::Settings,
};
use anyhow::bail;
use clap::Subcommand;
use hearth_builder::Edition;
use std::{process::ExitCode, time::Instant};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a template that Hearth has a recipe for
    #[command(subcommand)]
    Prepare(Prepare),
}

#[derive(Debug, Subcommand)]
enum Prepare {
    /// `code-interpreter-v1`: runs code in Python, JavaScript, TypeScript, Bash, R
    /// and Java, and keeps its variables
    CodeInterpreter {
        /// Python and JavaScript only, with fewer packages
        #[arg(long)]
        small: bool,
        /// Make the root file system, but start nothing
        #[arg(long)]
        image_only: bool,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let Command::Prepare(Prepare::CodeInterpreter { small, image_only }) = args.command;
    daemon::log::quiet();
    if let Some(pid) = lock::holder(&settings.pid_file()) {
        bail!(
            "Hearth is up (process {pid}): end it with `hearth down`, prepare the template, and \
             start it again"
        );
    }
    // Their networks would be in the way of the template's.
    let sandboxes = settings.state_dir.join("sandboxes");
    if std::fs::read_dir(&sandboxes).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("sandboxes of the last daemon are still there; `hearth down` ends them");
    }
    let edition = if small { Edition::Small } else { Edition::Full };
    let begun = Instant::now();
    {
        let _lock = Lock::take(&settings.pid_file())?;
        prepare::code_interpreter(settings, edition, image_only, &Bars::new()).await?;
    }
    println!("Prepared in {:.1} s.", begun.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
