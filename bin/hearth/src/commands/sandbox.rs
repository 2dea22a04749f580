//! `hearth sandbox`: what there is, its pauses, copies and end.

use super::client;
use super::output::{Format, relative};
use super::show;
use crate::settings::Settings;
use chrono::Utc;
use clap::Subcommand;
use hearth_client::{ControlClient, ListQuery, SandboxId, SandboxState};
use std::{process::ExitCode, time::Duration};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List running and paused sandboxes
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        format: Format,
    },
    /// Print all that there is to say of one sandbox
    Show {
        /// ID of the sandbox
        id: String,
        #[command(flatten)]
        format: Format,
    },
    /// End sandboxes, running or paused
    Kill {
        /// IDs of the sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Stop sandboxes and keep their state
    Pause {
        /// IDs of the sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
        /// Keep the disk alone: the next start boots
        #[arg(long)]
        disk_only: bool,
    },
    /// Continue paused sandboxes
    Resume {
        /// IDs of the sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
        /// Seconds to live from now, at least
        #[arg(long, default_value_t = 300)]
        timeout: u64,
    },
    /// Keep a running sandbox's state as a template to start others from
    Snapshot {
        /// ID of the sandbox
        id: String,
        /// `name[:tag]` instead of an ID
        #[arg(long)]
        name: Option<String>,
    },
    /// Make copies of a running sandbox
    Fork {
        /// ID of the sandbox
        id: String,
        /// How many
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Seconds that the copies live from now
        #[arg(long, default_value_t = 300)]
        timeout: u64,
    },
    /// Put a running sandbox back to one of its snapshots
    Rollback {
        /// ID of the sandbox
        id: String,
        /// What `hearth sandbox snapshot` printed
        snapshot: String,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = client(settings)?;
    let fine = match args.command {
        Command::Ls { format } => list(settings, &client, format).await?,
        Command::Show { id, format } => {
            show::run(&client, &parse(&id)?, format).await?;
            true
        }
        Command::Kill { ids } => kill(&client, &ids).await?,
        Command::Pause { ids, disk_only } => pause(&client, &ids, disk_only).await?,
        Command::Resume { ids, timeout } => {
            for id in ids {
                let timeout = Duration::from_secs(timeout);
                client.sandbox_connect(&parse(&id)?, Some(timeout)).await?;
                println!("{id}");
            }
            true
        }
        Command::Snapshot { id, name } => {
            let taken = client
                .sandbox_snapshot(&parse(&id)?, name.as_deref())
                .await?;
            println!("{}", taken.snapshot_id);
            true
        }
        Command::Fork { id, count, timeout } => fork(&client, &id, count, timeout).await?,
        Command::Rollback { id, snapshot } => {
            client.sandbox_rollback(&parse(&id)?, &snapshot).await?;
            println!("{id}");
            true
        }
    };
    Ok(if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn parse(id: &str) -> anyhow::Result<SandboxId> {
    Ok(SandboxId::parse_client(id)?)
}

/// The caller's sandboxes, and on the error output those of this machine that its daemon
/// cannot read: they are in no list of the API, since it is not known whose they are.
async fn list(settings: &Settings, client: &ControlClient, format: Format) -> anyhow::Result<bool> {
    let sandboxes = client.sandbox_list_all(&ListQuery::default()).await?;
    let now = Utc::now();
    let header = [
        "SANDBOX", "STATE", "TEMPLATE", "STARTED", "ENDS", "CPUS", "MEMORY",
    ];
    let rows = sandboxes.iter().map(|sandbox| {
        let (state, ends) = match sandbox.state {
            SandboxState::Running => ("running", relative(sandbox.end_at, now)),
            SandboxState::Paused => ("paused", "-".to_owned()),
        };
        let template = sandbox.alias.as_ref().unwrap_or(&sandbox.template_id);
        [
            sandbox.sandbox_id.clone(),
            state.to_owned(),
            template.clone(),
            relative(sandbox.started_at, now),
            ends,
            sandbox.cpu_count.to_string(),
            format!("{} MiB", sandbox.memory_mb),
        ]
    });
    format.print(&sandboxes, header, rows)?;
    for one in crate::daemon::quarantine(settings).unwrap_or_default() {
        eprintln!("{} is kept but cannot be read: {}", one.sandbox_id, one.why);
    }
    Ok(true)
}

async fn kill(client: &ControlClient, ids: &[String]) -> anyhow::Result<bool> {
    let mut fine = true;
    for id in ids {
        if client.sandbox_kill(&parse(id)?).await? {
            println!("{id}");
        } else {
            eprintln!("hearth: no sandbox {id}");
            fine = false;
        }
    }
    Ok(fine)
}

async fn pause(client: &ControlClient, ids: &[String], disk_only: bool) -> anyhow::Result<bool> {
    let mut fine = true;
    for id in ids {
        if client.sandbox_pause(&parse(id)?, !disk_only).await? {
            println!("{id}");
        } else {
            eprintln!("hearth: sandbox {id} is paused or on its way elsewhere");
            fine = false;
        }
    }
    Ok(fine)
}

async fn fork(client: &ControlClient, id: &str, count: u32, timeout: u64) -> anyhow::Result<bool> {
    let mut fine = true;
    let timeout = Duration::from_secs(timeout);
    for fork in client.sandbox_fork(&parse(id)?, count, timeout).await? {
        match (fork.sandbox, fork.error) {
            (Some(sandbox), _) => println!("{}", sandbox.sandbox_id),
            (None, error) => {
                let why = error.map_or_else(String::new, |error| error.message);
                eprintln!("hearth: a fork failed: {why}");
                fine = false;
            }
        }
    }
    Ok(fine)
}
