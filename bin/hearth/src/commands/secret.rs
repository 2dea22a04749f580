//! `hearth secret`: values that rules put into sandboxes' requests, and that no
//! sandbox ever sees.

use super::input;
use super::output::{Format, relative};
use crate::daemon::{
    self,
    audit::{self, Action},
    secret_files::SecretFiles,
};
use crate::settings::Settings;
use anyhow::bail;
use chrono::Utc;
use clap::Subcommand;
use hearth_control::{SecretInfo, SecretKeeper as _, SecretKey};
use hearth_ids::TeamId;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The team whose sandboxes may use the secret
    #[arg(long, global = true, default_value = daemon::DEFAULT_TEAM)]
    team: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a secret, whose value is read from standard input
    Set {
        /// What rules call it: `${e2b.secrets.NAME}`
        name: String,
    },
    /// List the names of the secrets
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Forget a secret
    Remove { name: String },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let store = daemon::open_store(settings).await?;
    let Some(team) = store.team_by_slug(&args.team).await? else {
        bail!("there is no team {:?}", args.team);
    };
    let (team, files) = (team.id, SecretFiles::new(settings));
    match args.command {
        Command::Set { name } => {
            let value = input::secret("hearth secret set NAME < FILE")?;
            let kept = files.set(team, &name, value.into());
            audit::operator(settings, action("secret.set", team, &name), kept.is_ok());
            kept?;
            println!("Kept {name}.");
        }
        Command::List { format } => list(files.list(team)?, format)?,
        Command::Remove { name } => {
            let removed = files.remove(team, &SecretKey::of(&name));
            let done = matches!(removed, Ok(true));
            audit::operator(settings, action("secret.remove", team, &name), done);
            if !removed? {
                bail!("there is no secret {name:?}");
            }
            println!("Removed {name}.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn action(name: &'static str, team: TeamId, secret: &str) -> Action {
    Action::new(name, Some(team), secret.to_owned())
}

fn list(mut secrets: Vec<SecretInfo>, format: Format) -> anyhow::Result<()> {
    secrets.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let json: Vec<serde_json::Value> = secrets
        .iter()
        .map(|secret| {
            serde_json::json!({
                "secretID": secret.id,
                "name": secret.name,
                "currentVersion": secret.version,
                "createdAt": secret.created_at,
                "updatedAt": secret.updated_at,
            })
        })
        .collect();
    let now = Utc::now();
    let rows = secrets.into_iter().map(|secret| {
        [
            secret.name,
            secret.version.to_string(),
            relative(secret.created_at, now),
            relative(secret.updated_at, now),
        ]
    });
    format.print(&json, ["NAME", "VERSION", "CREATED", "UPDATED"], rows)
}
