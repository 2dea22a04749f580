//! `hearth volume`: directory trees that outlive sandboxes.

use super::client;
use super::output::Format;
use crate::settings::Settings;
use anyhow::{Context as _, bail};
use clap::Subcommand;
use hearth_client::{ControlClient, Volume, VolumeState};
use hearth_ids::VolumeId;
use std::{process::ExitCode, time::Duration};

/// How often a copy that is being made is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make empty volumes
    Create {
        /// Names, of a-z, A-Z, 0-9, "_" and "-"
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// List volumes
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        format: Format,
    },
    /// Delete volumes with all that is in them, also while sandboxes use them
    Rm {
        /// Names or IDs
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Copy a volume to a new one, sharing data where the file system can
    Cp {
        /// Name or ID
        volume: String,
        /// Name of the copy
        name: String,
        /// Do not wait until all of it is there
        #[arg(long)]
        no_wait: bool,
    },
    /// Print how much volumes hold
    Du {
        /// Names or IDs [default: all]
        volumes: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = client(settings)?;
    match args.command {
        Command::Create { names } => {
            for name in names {
                println!("{}", client.volume_create(&name).await?.volume_id);
            }
        }
        Command::Ls { format } => list(&client, format).await?,
        Command::Rm { volumes } => return remove(&client, &volumes).await,
        Command::Cp {
            volume,
            name,
            no_wait,
        } => copy(&client, &volume, &name, no_wait).await?,
        Command::Du { volumes, format } => usage(&client, &volumes, format).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn state(state: Option<VolumeState>) -> &'static str {
    match state {
        None => "ready",
        Some(VolumeState::Making) => "making",
        Some(VolumeState::Failed) => "failed",
    }
}

async fn list(client: &ControlClient, format: Format) -> anyhow::Result<()> {
    let volumes = client.volume_list().await?;
    let rows = volumes.iter().map(|volume| {
        [
            volume.name.clone(),
            volume.volume_id.clone(),
            state(volume.state).to_owned(),
        ]
    });
    format.print(&volumes, ["NAME", "VOLUME", "STATE"], rows)
}

/// The volume of this name, or else of this ID.
fn find<'a>(volumes: &'a [Volume], wanted: &str) -> anyhow::Result<&'a Volume> {
    let by_name = volumes.iter().find(|volume| volume.name == wanted);
    let by_id = || volumes.iter().find(|volume| volume.volume_id == wanted);
    let found = by_name.or_else(by_id);
    found.with_context(|| format!("there is no volume {wanted:?}: see `hearth volume ls`"))
}

fn id(volume: &Volume) -> anyhow::Result<VolumeId> {
    Ok(volume.volume_id.parse()?)
}

async fn remove(client: &ControlClient, wanted: &[String]) -> anyhow::Result<ExitCode> {
    let volumes = client.volume_list().await?;
    let mut code = ExitCode::SUCCESS;
    for wanted in wanted {
        let removed = match find(&volumes, wanted) {
            Ok(volume) => match client.volume_delete(id(volume)?).await? {
                true => Ok(()),
                false => Err(anyhow::anyhow!(
                    "the volume {wanted:?} was deleted meanwhile"
                )),
            },
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => println!("{wanted}"),
            Err(error) => {
                eprintln!("hearth: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn copy(
    client: &ControlClient,
    volume: &str,
    name: &str,
    no_wait: bool,
) -> anyhow::Result<()> {
    let volumes = client.volume_list().await?;
    let mut copy = client
        .volume_copy(id(find(&volumes, volume)?)?, name)
        .await?;
    let new: VolumeId = copy.volume_id.parse()?;
    while !no_wait && copy.state == Some(VolumeState::Making) {
        tokio::time::sleep(LOOK_EVERY).await;
        copy = client.volume(new).await?;
    }
    if copy.state == Some(VolumeState::Failed) {
        bail!("the copy failed, see the daemon's log; delete it: hearth volume rm {name}");
    }
    println!("{new}");
    Ok(())
}

async fn usage(client: &ControlClient, wanted: &[String], format: Format) -> anyhow::Result<()> {
    let volumes = client.volume_list().await?;
    let chosen: Vec<&Volume> = match wanted.is_empty() {
        // What is not there yet holds nothing that could be told.
        true => volumes
            .iter()
            .filter(|volume| volume.state.is_none())
            .collect(),
        false => {
            let found = wanted.iter().map(|wanted| find(&volumes, wanted));
            found.collect::<anyhow::Result<_>>()?
        }
    };
    let (mut json, mut rows) = (Vec::new(), Vec::new());
    for volume in chosen {
        let usage = client.volume_usage(id(volume)?).await?;
        json.push(serde_json::json!({
            "volumeID": volume.volume_id,
            "name": volume.name,
            "bytes": usage.bytes,
            "entries": usage.entries,
        }));
        let mib = usage.bytes.div_ceil(1 << 20);
        rows.push([
            volume.name.clone(),
            mib.to_string(),
            usage.entries.to_string(),
        ]);
    }
    format.print(&json, ["NAME", "MIB", "ENTRIES"], rows)
}
