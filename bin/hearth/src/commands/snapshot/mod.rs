//! `hearth snapshot`: the builds on this machine's disk: templates, snapshots, and
//! what paused sandboxes go on from. Everything but `gc` also works beside a daemon.

mod disk;

use super::output::{Format, relative};
use crate::settings::Settings;
use anyhow::Context;
use chrono::Utc;
use clap::Subcommand;
use hearth_ids::BuildId;
use hearth_layout::lock::{self, Lock};
use hearth_snapshot::{Build, BuildCache, BuildCollection, Error, LocalStore};
use std::{collections::BTreeSet, process::ExitCode};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List builds with what each takes on the disk
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        format: Format,
    },
    /// Print a build's manifest
    Show {
        /// ID of the build
        build: BuildId,
    },
    /// Read builds, with all that they stand on, and compare every byte
    Verify {
        /// IDs of the builds; all when there are none
        builds: Vec<BuildId>,
    },
    /// Let other programs read a build's disk, over NBD or as a block device
    Serve(disk::Args),
    /// Remove builds that nothing needs any more; a daemon does it by itself
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let directory = settings.builds_dir();
    anyhow::ensure!(
        directory.is_dir(),
        "{} does not exist: run `hearth up`",
        directory.display()
    );
    let store = LocalStore::open(directory)?;
    match args.command {
        Command::Ls { format } => list(&store, format).await,
        Command::Show { build } => {
            let stack = store.stack(build).await?;
            println!("{}", serde_json::to_string_pretty(&stack.build.manifest)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve(args) => disk::run(&store, args).await,
        Command::Verify { builds } => verify(&store, builds).await,
        Command::Gc { dry_run } => collect(settings, &store, dry_run).await,
    }
}

async fn list(store: &LocalStore, format: Format) -> anyhow::Result<ExitCode> {
    let builds = store.list_all().await?;
    let sum: u64 = builds.iter().map(|(_, bytes)| bytes).sum();
    let json: Vec<serde_json::Value> = builds.iter().map(json).collect();
    let now = Utc::now();
    let header = ["BUILD", "KIND", "CREATED", "MIB", "PARENTS", "NAME"];
    let rows = builds.iter().map(|(build, bytes)| {
        let Build { manifest, .. } = build;
        let name = manifest.name.as_deref().unwrap_or_default();
        let retired = match build.is_retired() {
            true => " (deleted, in use)",
            false => "",
        };
        [
            manifest.build_id.to_string(),
            manifest.kind.as_str().to_owned(),
            relative(manifest.created_at, now),
            format!("{:.1}", mib(*bytes)),
            manifest.parents.len().to_string(),
            format!("{name}{retired}"),
        ]
    });
    format.print(&json, header, rows)?;
    if !format.is_json() {
        println!("{:.1} MiB in all", mib(sum));
    }
    Ok(ExitCode::SUCCESS)
}

fn json((build, bytes): &(Build, u64)) -> serde_json::Value {
    let manifest = &build.manifest;
    let parents: Vec<String> = manifest.parents.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "buildID": manifest.build_id.to_string(),
        "kind": manifest.kind.as_str(),
        "name": manifest.name,
        "createdAt": manifest.created_at,
        "bytes": bytes,
        "parents": parents,
        "deleted": build.is_retired(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn verify(store: &LocalStore, builds: Vec<BuildId>) -> anyhow::Result<ExitCode> {
    let wanted = match builds.is_empty() {
        true => ids(store)?,
        false => builds,
    };
    let mut seen = BTreeSet::new();
    let mut damaged = false;
    for build in wanted {
        let result = verify_deep(store, build, &mut seen).await;
        match result {
            Ok(()) => println!("{build}: sound"),
            Err(error) => {
                damaged = true;
                println!("{build}: {:#}", anyhow::Error::from(error));
            }
        }
    }
    Ok(match damaged {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// Every directory that is named like a build, readable or not.
fn ids(store: &LocalStore) -> anyhow::Result<Vec<BuildId>> {
    let entries = std::fs::read_dir(store.root()).context("list the builds")?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut ids: Vec<BuildId> = names.filter_map(|name| name.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Verifies a build and what it stands on, each of them once.
async fn verify_deep(
    store: &LocalStore,
    build: BuildId,
    seen: &mut BTreeSet<BuildId>,
) -> Result<(), Error> {
    let stack = store.stack(build).await?;
    for id in stack.build.manifest.parents.iter().chain([&build]) {
        if !seen.contains(id) {
            store.verify(*id).await?;
            seen.insert(*id);
        }
    }
    Ok(())
}

async fn collect(
    settings: &Settings,
    store: &LocalStore,
    dry_run: bool,
) -> anyhow::Result<ExitCode> {
    if let Some(pid) = lock::holder(&settings.pid_file()) {
        anyhow::bail!("the daemon (process {pid}) runs, and removes what nothing needs by itself");
    }
    // What paused sandboxes go on from is needed, though no daemon says so now.
    let _lock = Lock::take(&settings.pid_file())?;
    hearth_node::lease_builds(&settings.state_dir, store)?;
    let removed = match dry_run {
        true => store.garbage().await?,
        false => store.collect().await?,
    };
    for build in &removed {
        println!("{build}");
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    println!("{verb} {} builds", removed.len());
    Ok(ExitCode::SUCCESS)
}
