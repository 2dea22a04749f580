//! What a former daemon left. For every journal: a VM that still runs is adopted,
//! a paused sandbox is kept; anything else is cleaned up. VM processes without a
//! journal are ended too.
//!
//! | the journal says | and | then it is |
//! |---|---|---|
//! | running | its VM runs | adopted |
//! | pausing | the build is there | paused: that was the moment of the pause |
//! | pausing | the build is not there, its VM runs | adopted, and goes on |
//! | snapshotting | its VM runs | adopted, and goes on; a build that nobody was told of goes |
//! | paused, resuming | | paused, whatever was started for it |
//! | starting, stopping, or else | | ended and cleaned up |
//!
//! The order makes an interruption harmless: the survey comes before the network
//! starts (it must know which slots to keep), and a journal goes last of all.

use crate::{
    config::NodeConfig,
    error::{Error, chain},
    journal::{Found, Journals, Paused, Record},
    sandbox::{egress, ground::Ground},
    spec::SandboxState,
};
use hearth_ids::SandboxId;
use hearth_machine::{Engine, Machine};
use hearth_snapshot::{ArtefactStore, LocalStore};
use std::{collections::HashSet, fs, path::Path};

/// A VM that runs on, with everything that is known of it.
pub(crate) struct Adopted {
    pub ground: Ground,
    pub record: Record,
    pub machine: Box<dyn Machine>,
}

pub(crate) struct Survey {
    pub adopted: Vec<Adopted>,
    pub paused: Vec<Record>,
}

impl Survey {
    /// Slots that live sandboxes use, with what these may reach.
    pub(crate) fn slots(&self) -> Vec<hearth_network::Adoption> {
        self.adopted
            .iter()
            .map(|adopted| &adopted.record)
            .filter_map(|record| Some(egress::adoption(record.slot?, &record.spec)))
            .collect()
    }
}

/// What becomes of a sandbox.
enum Fate {
    Adopted(Box<Adopted>),
    Paused(Box<Record>),
    Dead(SandboxId, String),
}

pub(crate) async fn survey(
    journals: &Journals,
    config: &NodeConfig,
    engine: &dyn Engine,
    builds: &LocalStore,
) -> Result<Survey, Error> {
    let found = journals
        .scan()
        .map_err(Error::step("read the journals of sandboxes"))?;
    let (mut adopted, mut paused, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    for found in found {
        match found {
            Found::Readable(record) => match decide(*record, engine, builds).await {
                Fate::Adopted(found) => adopted.push(*found),
                Fate::Paused(record) => paused.push(*record),
                Fate::Dead(id, why) => {
                    tracing::warn!(sandbox = %id, why, "a sandbox did not outlive the daemon's stop");
                    dead.push(id);
                }
            },
            Found::Unreadable { id, why } => {
                tracing::error!(sandbox = %id, why, "ending a sandbox whose journal cannot be read");
                dead.push(id);
            }
        }
    }
    let keep: HashSet<u32> = adopted
        .iter()
        .map(|adopted| adopted.machine.pid())
        .collect();
    end_orphans(&config.run_dir.join("sb"), &keep);
    for id in &dead {
        clean(id, journals, config);
    }
    for record in &paused {
        settle(record, journals)?;
    }
    let live: HashSet<&SandboxId> = adopted.iter().map(|a| &a.record.spec.sandbox_id).collect();
    sweep_run_dir(&config.run_dir.join("sb"), &live);
    Ok(Survey { adopted, paused })
}

async fn decide(mut record: Record, engine: &dyn Engine, builds: &LocalStore) -> Fate {
    let id = record.spec.sandbox_id.clone();
    let keeping = record.keeping;
    match (record.state, keeping, record.paused) {
        (SandboxState::Pausing, Some(keeping), _) if builds.open(keeping.build).await.is_ok() => {
            end_vm(&record, engine).await;
            record.set_paused(Paused {
                build: keeping.build,
                with_memory: keeping.with_memory,
                at: chrono::Utc::now(),
            });
            return Fate::Paused(Box::new(record));
        }
        (SandboxState::Paused | SandboxState::Resuming, _, Some(paused)) => {
            end_vm(&record, engine).await;
            record.set_paused(paused);
            return Fate::Paused(Box::new(record));
        }
        _ => {}
    }
    if let (SandboxState::Snapshotting, Some(keeping)) = (record.state, keeping) {
        // Links into it are the sandbox's own files too, which stay.
        let _ = builds.remove(keeping.build).await;
    }
    match adopt(record, engine, builds).await {
        Ok(adopted) => Fate::Adopted(Box::new(adopted)),
        Err(why) => Fate::Dead(id, why),
    }
}

async fn adopt(
    mut record: Record,
    engine: &dyn Engine,
    builds: &LocalStore,
) -> Result<Adopted, String> {
    if !record.state.is_up() {
        return Err(format!("it was {:?} when the daemon stopped", record.state));
    }
    let Some(machine) = record.machine.clone() else {
        return Err("its journal names no VM".to_owned());
    };
    let ground = Ground::of(builds, &record)
        .await
        .map_err(|error| chain(&error))?;
    record.shape = Some(ground.disk.build.manifest.shape);
    let machine = engine.adopt(machine).await.map_err(|error| chain(&error))?;
    Ok(Adopted {
        ground,
        record,
        machine,
    })
}

/// Ends the VM of a sandbox that is paused now, if it still runs.
async fn end_vm(record: &Record, engine: &dyn Engine) {
    let Some(machine) = record.machine.clone() else {
        return;
    };
    if let Ok(machine) = engine.adopt(machine).await
        && let Err(error) = machine.stop().await
    {
        tracing::error!(pid = machine.pid(), error = %chain(&error), "ending a VM failed");
    }
}

/// Leaves a paused sandbox with its journal alone. Its run directory is swept.
fn settle(record: &Record, journals: &Journals) -> Result<(), Error> {
    let id = &record.spec.sandbox_id;
    journals
        .write_durably(record)
        .map_err(Error::step("write a sandbox's journal"))?;
    if let Err(error) = hearth_confine::remove_cgroup(&crate::sandbox::setup::cgroup_name(id)) {
        tracing::error!(sandbox = %id, %error, "removing a paused sandbox's cgroup failed");
    }
    journals
        .clear(id, &[])
        .map_err(Error::step("remove a paused sandbox's own files"))
}

/// Ends every VM process that names our run directory and was not adopted. A
/// daemon that died between starting a VM and journalling it leaves such a one.
fn end_orphans(run_dir: &Path, keep: &HashSet<u32>) {
    let Some(marker) = run_dir.to_str() else {
        return;
    };
    let marker = format!("{marker}/");
    for pid in hearth_machine::processes::naming(&marker) {
        if keep.contains(&pid) {
            continue;
        }
        tracing::warn!(pid, "ending a VM process that no sandbox owns");
        if let Err(error) = hearth_machine::processes::end(pid) {
            tracing::error!(pid, %error, "ending a VM process failed");
        }
    }
}

fn clean(id: &SandboxId, journals: &Journals, config: &NodeConfig) {
    if let Err(error) = hearth_confine::remove_cgroup(&crate::sandbox::setup::cgroup_name(id)) {
        tracing::error!(sandbox = %id, %error, "removing a dead sandbox's cgroup failed");
    }
    let run_dir = config.run_dir.join("sb").join(id.as_str());
    for result in [remove_dir(&run_dir), journals.remove(id)] {
        if let Err(error) = result {
            tracing::error!(sandbox = %id, %error, "removing a dead sandbox's files failed");
        }
    }
}

/// Removes run directories without a live sandbox.
fn sweep_run_dir(run_dir: &Path, live: &HashSet<&SandboxId>) {
    let Ok(entries) = fs::read_dir(run_dir) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let id: Option<SandboxId> = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        if id.is_some_and(|id| !live.contains(&id))
            && let Err(error) = remove_dir(&path)
        {
            tracing::error!(path = %path.display(), %error, "removing an old run directory failed");
        }
    }
}

pub(crate) fn remove_dir(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
