//! `hearth key`: API keys, through the store, whether or not the daemon runs.

use crate::{daemon, settings::Settings};
use anyhow::{Context, bail};
use clap::Subcommand;
use hearth_control::keys;
use hearth_store::Store;
use secrecy::ExposeSecret;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print it, this once
    Create {
        /// What the key is for
        #[arg(long, default_value = "unnamed")]
        name: String,
        /// The team that the key acts for; made when there is none of that name
        #[arg(long, default_value = daemon::DEFAULT_TEAM)]
        team: String,
    },
    /// List the keys, masked
    List,
    /// Revoke a key; its next request is refused
    Revoke {
        /// ID of the key, as `hearth key list` prints it
        id: String,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let store = daemon::open_store(settings).await?;
    match args.command {
        Command::Create { name, team } => {
            let team = daemon::team_or_new(store.as_ref(), settings, &team).await?;
            let (created, key) = keys::create(store.as_ref(), team.id, &name).await?;
            eprintln!(
                "Key {} of team {}. It is shown only now:",
                created.id, team.slug
            );
            println!("{}", key.expose_secret());
        }
        Command::List => {
            println!(
                "{:<38} {:<12} {:<20} {:<16} LAST USED",
                "ID", "TEAM", "NAME", "KEY"
            );
            for team in store.team_list().await? {
                for key in keys::list(store.as_ref(), team.id).await? {
                    let mask = format!("{}{}…{}", key.mask.prefix, key.mask.first, key.mask.last);
                    let used = key
                        .last_used_at
                        .map_or_else(|| "never".to_owned(), |at| at.to_rfc3339());
                    println!(
                        "{:<38} {:<12} {:<20} {mask:<16} {used}",
                        key.id, team.slug, key.name
                    );
                }
            }
        }
        Command::Revoke { id } => {
            let id: uuid::Uuid = id.parse().with_context(|| format!("{id:?} is no key ID"))?;
            if !revoke(store.as_ref(), id).await? {
                bail!("no key has the ID {id}; `hearth key list` shows them");
            }
            println!("Revoked {id}.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Revokes the key in whichever team it is; false when there is none.
async fn revoke(store: &dyn Store, id: uuid::Uuid) -> anyhow::Result<bool> {
    for team in store.team_list().await? {
        if store
            .api_key_revoke(team.id, id, chrono::Utc::now())
            .await?
        {
            return Ok(true);
        }
    }
    Ok(false)
}
