//! `hearth team`: the teams, through the store, whether or not the daemon runs.

use super::output::{Format, relative};
use crate::daemon::audit::{self, Action};
use crate::{daemon, settings::Settings};
use anyhow::{Context, bail};
use chrono::Utc;
use clap::Subcommand;
use hearth_control::{Node as _, SandboxQuery};
use hearth_node_client::NodeClient;
use hearth_store::{LimitsSetBy, Store, Team, TeamLimits};
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
    /// Make a team; `hearth key create --team` makes a key for it
    Create {
        /// Name of 1 to 64 characters of a-z, 0-9, "-" and "_", which is the namespace of
        /// the team's templates
        team: String,
    },
    /// Show what a team may use, and change what is named; holds within 5 seconds
    Limits {
        /// Slug or ID of the team
        team: String,
        #[command(flatten)]
        change: LimitChange,
    },
    /// Refuse all requests of a team within 5 seconds, or all that make or change something
    Ban {
        /// Slug or ID of the team
        team: String,
        /// Let the team look and clean up, and tell it this
        #[arg(long, value_name = "REASON")]
        block: Option<String>,
    },
    /// Take a ban or a block back
    Unban {
        /// Slug or ID of the team
        team: String,
    },
    /// Delete a team with its API keys and secrets; it must have no sandboxes, templates and volumes
    Rm {
        /// Slug or ID of the team
        team: String,
    },
}

/// Limits to be changed; what is not named stays.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
struct LimitChange {
    /// Sandboxes that run at the same time
    #[arg(long, value_name = "N")]
    concurrent_sandboxes: Option<u32>,
    /// The longest time that a sandbox may be given at once
    #[arg(long, value_name = "HOURS")]
    max_length_hours: Option<u32>,
    /// Processors of one sandbox
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Memory of one sandbox
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u32>,
    /// Disk of one sandbox
    #[arg(long, value_name = "MIB")]
    disk_mib: Option<u32>,
    /// Processors of all running sandboxes together; 4294967295 is no limit
    #[arg(long, value_name = "N")]
    total_vcpus: Option<u32>,
    /// Memory of all running sandboxes together; 4294967295 is no limit
    #[arg(long, value_name = "MIB")]
    total_memory_mib: Option<u32>,
    /// Sandboxes that are paused
    #[arg(long, value_name = "N")]
    paused_sandboxes: Option<u32>,
    /// Snapshots
    #[arg(long, value_name = "N")]
    snapshots: Option<u32>,
    /// Templates
    #[arg(long, value_name = "N")]
    templates: Option<u32>,
    /// Volumes
    #[arg(long, value_name = "N")]
    volumes: Option<u32>,
    /// Disk that builds of templates and snapshots take together
    #[arg(long, value_name = "MIB")]
    stored_mib: Option<u32>,
}

impl LimitChange {
    fn apply(&self, limits: TeamLimits) -> TeamLimits {
        TeamLimits {
            max_concurrent_sandboxes: self
                .concurrent_sandboxes
                .unwrap_or(limits.max_concurrent_sandboxes),
            max_length_hours: self.max_length_hours.unwrap_or(limits.max_length_hours),
            max_vcpus: self.vcpus.unwrap_or(limits.max_vcpus),
            max_memory_mib: self.memory_mib.unwrap_or(limits.max_memory_mib),
            max_disk_mib: self.disk_mib.unwrap_or(limits.max_disk_mib),
            max_total_vcpus: self.total_vcpus.unwrap_or(limits.max_total_vcpus),
            max_total_memory_mib: self.total_memory_mib.unwrap_or(limits.max_total_memory_mib),
            max_paused_sandboxes: self.paused_sandboxes.unwrap_or(limits.max_paused_sandboxes),
            max_snapshots: self.snapshots.unwrap_or(limits.max_snapshots),
            max_templates: self.templates.unwrap_or(limits.max_templates),
            max_volumes: self.volumes.unwrap_or(limits.max_volumes),
            max_stored_mib: self.stored_mib.unwrap_or(limits.max_stored_mib),
        }
    }
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let store = daemon::open_store(settings).await?;
    let store = store.as_ref();
    match args.command {
        Command::Ls { format } => list(store, format).await?,
        Command::Create { team } => create(settings, store, &team).await?,
        Command::Limits { team, change } => limits(settings, store, &team, &change).await?,
        Command::Ban { team, block } => {
            let banned = block.is_none();
            let team = set_standing(store, &team, banned, block.as_deref()).await?;
            note(
                settings,
                if banned { "team.ban" } else { "team.block" },
                &team,
            );
            let is = if banned { "banned" } else { "blocked" };
            println!(
                "Team {} is {is}. Its sandboxes run on: `hearth sandbox ls`.",
                team.slug
            );
        }
        Command::Unban { team } => {
            let team = set_standing(store, &team, false, None).await?;
            note(settings, "team.unban", &team);
            println!("Team {} may work again.", team.slug);
        }
        Command::Rm { team } => remove(settings, store, &team).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn note(settings: &Settings, action: &'static str, team: &Team) {
    let action = Action::new(action, Some(team.id), team.slug.clone());
    audit::operator(settings, action, true);
}

/// The team of this slug or id.
pub(super) async fn find(store: &dyn Store, name: &str) -> anyhow::Result<Team> {
    let found = match store.team_by_slug(name).await? {
        Some(team) => Some(team),
        None => match name.parse() {
            Ok(id) => store.team(id).await?,
            Err(_) => None,
        },
    };
    found.with_context(|| format!("there is no team {name:?}; `hearth team ls` lists them"))
}

async fn create(settings: &Settings, store: &dyn Store, slug: &str) -> anyhow::Result<()> {
    if store.team_by_slug(slug).await?.is_some() {
        bail!("there is a team {slug:?} already");
    }
    let team = daemon::team_or_new(store, settings, slug).await?;
    note(settings, "team.create", &team);
    println!("{}", team.id);
    eprintln!("`hearth key create --team {slug}` makes a key for it.");
    Ok(())
}

async fn limits(
    settings: &Settings,
    store: &dyn Store,
    name: &str,
    change: &LimitChange,
) -> anyhow::Result<()> {
    let mut team = find(store, name).await?;
    if *change != LimitChange::default() {
        team.limits = change.apply(team.limits);
        let by = LimitsSetBy::Operator;
        if !store.team_set_limits(team.id, team.limits, by).await? {
            bail!("the team {name:?} was deleted meanwhile");
        }
        note(settings, "team.limits", &team);
    }
    let limits = json(&team)["limits"].clone();
    println!("{}", serde_json::to_string_pretty(&limits)?);
    Ok(())
}

async fn set_standing(
    store: &dyn Store,
    name: &str,
    banned: bool,
    blocked_reason: Option<&str>,
) -> anyhow::Result<Team> {
    let team = find(store, name).await?;
    if !store
        .team_set_standing(team.id, banned, blocked_reason)
        .await?
    {
        bail!("the team {name:?} was deleted meanwhile");
    }
    Ok(team)
}

async fn remove(settings: &Settings, store: &dyn Store, name: &str) -> anyhow::Result<()> {
    let team = find(store, name).await?;
    if team.slug == daemon::DEFAULT_TEAM {
        bail!("the team {name:?} is the one that each start makes sure of; it cannot be deleted");
    }
    let query = SandboxQuery {
        team: Some(team.id),
        ..SandboxQuery::default()
    };
    let sandboxes = NodeClient::unix(settings.node_socket())
        .list(query)
        .await
        .context("look for the team's sandboxes: start Hearth first (`hearth up`)")?;
    if !sandboxes.is_empty() {
        bail!(
            "the team {name:?} has {} sandboxes, paused ones among them; end them first: `hearth \
             sandbox ls`",
            sandboxes.len()
        );
    }
    match store.team_delete(team.id).await {
        Ok(true) => {}
        Ok(false) => bail!("the team {name:?} was deleted meanwhile"),
        Err(hearth_store::Error::Dangling) => {
            bail!("the team {name:?} has templates, snapshots or volumes; delete them first")
        }
        Err(error) => return Err(error.into()),
    }
    let secrets = settings.secrets_dir().join(team.id.to_string());
    match std::fs::remove_dir_all(&secrets) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("delete {}", secrets.display()));
        }
        _ => {}
    }
    note(settings, "team.rm", &team);
    println!("Deleted the team {} with its keys.", team.slug);
    Ok(())
}

async fn list(store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let teams = store.team_list().await?;
    let json: Vec<serde_json::Value> = teams.iter().map(json).collect();
    let now = Utc::now();
    let header = [
        "TEAM",
        "SLUG",
        "NAME",
        "STANDING",
        "SANDBOXES",
        "HOURS",
        "CREATED",
    ];
    let rows = teams.into_iter().map(|team| {
        let standing = match (team.banned, &team.blocked_reason) {
            (true, _) => "banned",
            (false, Some(_)) => "blocked",
            (false, None) => "good",
        };
        [
            team.id.to_string(),
            team.slug,
            team.name,
            standing.to_owned(),
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
        "limitsSetBy": match team.limits_set_by {
            LimitsSetBy::Settings => "settings",
            LimitsSetBy::Operator => "operator",
        },
        "limits": {
            "concurrentSandboxes": limits.max_concurrent_sandboxes,
            "maxLengthHours": limits.max_length_hours,
            "maxVcpus": limits.max_vcpus,
            "maxMemoryMiB": limits.max_memory_mib,
            "maxDiskMiB": limits.max_disk_mib,
            "totalVcpus": limits.max_total_vcpus,
            "totalMemoryMiB": limits.max_total_memory_mib,
            "pausedSandboxes": limits.max_paused_sandboxes,
            "snapshots": limits.max_snapshots,
            "templates": limits.max_templates,
            "volumes": limits.max_volumes,
            "storedMiB": limits.max_stored_mib,
        },
    })
}
