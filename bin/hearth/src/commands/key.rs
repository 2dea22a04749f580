//! `hearth key`: API keys, through the store, whether or not the daemon runs.

use super::output::{Format, relative};
use crate::daemon::{
    self,
    audit::{self, Action},
};
use crate::settings::Settings;
use anyhow::{Context, bail};
use chrono::Utc;
use clap::Subcommand;
use hearth_control::keys;
use hearth_ids::TeamId;
use hearth_store::{ApiKey, Store, Team};
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
    /// List the keys, masked, with the IDs of their teams
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Revoke a key; its requests are refused within 5 seconds
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
            let action = Action::new("key.create", Some(team.id), created.id.to_string());
            audit::operator(settings, action, true);
            eprintln!(
                "Key {} of team {}. It is shown only now:",
                created.id, team.slug
            );
            println!("{}", key.expose_secret());
        }
        Command::List { format } => list(store.as_ref(), format).await?,
        Command::Revoke { id } => {
            let id: uuid::Uuid = id.parse().with_context(|| format!("{id:?} is no key ID"))?;
            let team = revoke(store.as_ref(), id).await?;
            let action = Action::new("key.revoke", team, id.to_string());
            audit::operator(settings, action, team.is_some());
            if team.is_none() {
                bail!("no key has the ID {id}; `hearth key list` shows them");
            }
            println!("Revoked {id}.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    for team in store.team_list().await? {
        let of_team = keys::list(store, team.id).await?;
        keys.extend(of_team.into_iter().map(|key| (team.clone(), key)));
    }
    let json: Vec<serde_json::Value> = keys.iter().map(|(team, key)| json(team, key)).collect();
    let now = Utc::now();
    let header = [
        "ID",
        "NAME",
        "KEY",
        "TEAM",
        "TEAM ID",
        "CREATED",
        "LAST USED",
    ];
    let rows = keys.into_iter().map(|(team, key)| {
        let used = key.last_used_at.map(|at| relative(at, now));
        [
            key.id.to_string(),
            key.name.clone(),
            mask(&key),
            team.slug,
            team.id.to_string(),
            relative(key.created_at, now),
            used.unwrap_or_else(|| "never".to_owned()),
        ]
    });
    format.print(&json, header, rows)
}

fn mask(key: &ApiKey) -> String {
    format!("{}{}…{}", key.mask.prefix, key.mask.first, key.mask.last)
}

fn json(team: &Team, key: &ApiKey) -> serde_json::Value {
    serde_json::json!({
        "id": key.id.to_string(),
        "name": key.name,
        "key": mask(key),
        "team": team.slug,
        "teamID": team.id.to_string(),
        "createdAt": key.created_at,
        "lastUsedAt": key.last_used_at,
    })
}

/// Revokes the key and tells whose it was; `None` when there is no such key.
async fn revoke(store: &dyn Store, id: uuid::Uuid) -> anyhow::Result<Option<TeamId>> {
    for team in store.team_list().await? {
        if store.api_key_revoke(team.id, id, Utc::now()).await? {
            return Ok(Some(team.id));
        }
    }
    Ok(None)
}
