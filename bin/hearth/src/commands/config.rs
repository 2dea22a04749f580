//! `hearth config`: a file of settings to begin with, and what is wrong with one.

use crate::settings::{DEFAULT_FILE, Settings, reference};
use anyhow::Context;
use clap::Subcommand;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a hearth.toml that explains every key and shows its default
    Default,
    /// Check a settings file, with the environment, and name the line and key of a mistake
    Check {
        /// Settings file [default: that of --config, or /etc/hearth/hearth.toml]
        file: Option<PathBuf>,
    },
}

/// Needs no settings that are right: it is there to find out what is wrong with them.
pub fn run(config: Option<&Path>, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Default => print!("{}", reference::default_file()),
        Command::Check { file } => {
            let given = file.as_deref().or(config);
            let path = given.unwrap_or(Path::new(DEFAULT_FILE));
            let there = path
                .try_exists()
                .with_context(|| format!("look for {}", path.display()))?;
            Settings::load(given)?;
            if there {
                println!("{}: no mistake found", path.display());
            } else {
                println!("{}: absent, so the defaults apply", path.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
