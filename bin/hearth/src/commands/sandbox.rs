//! `hearth sandbox`: what runs, and its end.

use super::client;
use crate::settings::Settings;
use clap::Subcommand;
use hearth_client::{ListQuery, SandboxId};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List running sandboxes
    Ls,
    /// End sandboxes
    Kill {
        /// IDs of the sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = client(settings)?;
    match args.command {
        Command::Ls => {
            println!(
                "{:<22} {:<20} {:<26} {:<26}",
                "SANDBOX", "TEMPLATE", "STARTED", "ENDS"
            );
            for sandbox in client.sandbox_list_all(&ListQuery::default()).await? {
                let template = sandbox.alias.as_deref().unwrap_or(&sandbox.template_id);
                println!(
                    "{:<22} {:<20} {:<26} {:<26}",
                    sandbox.sandbox_id,
                    template,
                    sandbox.started_at.to_string(),
                    sandbox.end_at.to_string()
                );
            }
        }
        Command::Kill { ids } => {
            let mut missing = false;
            for id in ids {
                let parsed = SandboxId::parse_client(&id)?;
                if client.sandbox_kill(&parsed).await? {
                    println!("{id}");
                } else {
                    eprintln!("hearth: no sandbox {id}");
                    missing = true;
                }
            }
            if missing {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
