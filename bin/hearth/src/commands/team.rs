//! `hearth team`: the teams, through the store, whether or not the daemon runs.

use super::output::{Format, relative};
use crate::{daemon, settings::Settings};
use chrono::Utc;
use clap::Subcommand;
use hearth_store::{Store, Team};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the teams with their IDs and limits
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        format: Format,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let store = daemon::open_store(settings).await?;
    match args.command {
        Command::Ls { format } => list(store.as_ref(), format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let teams = store.team_list().await?;
    let json: Vec<serde_json::Value> = teams.iter().map(json).collect();
    let now = Utc::now();
    let header = ["TEAM", "SLUG", "NAME", "SANDBOXES", "HOURS", "CREATED"];
    let rows = teams.into_iter().map(|team| {
        [
            team.id.to_string(),
            team.slug,
            team.name,
            team.limits.max_concurrent_sandboxes.to_string(),
            team.limits.max_length_hours.to_string(),
            relative(team.created_at, now),
        ]
    });
    format.print(&json, header, rows)
}

fn json(team: &Team) -> serde_json::Value {
    let limits = team.limits;
    serde_json::json!({
        "teamID": team.id.to_string(),
        "slug": team.slug,
        "name": team.name,
        "banned": team.banned,
        "blockedReason": team.blocked_reason,
        "createdAt": team.created_at,
        "limits": {
            "concurrentSandboxes": limits.max_concurrent_sandboxes,
            "maxLengthHours": limits.max_length_hours,
            "maxVcpus": limits.max_vcpus,
            "maxMemoryMiB": limits.max_memory_mib,
            "maxDiskMiB": limits.max_disk_mib,
        },
    })
}
