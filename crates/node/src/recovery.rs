//! What a former daemon left. For every journal: a VM that still runs is adopted;
//! anything else is cleaned up. VM processes without a journal are ended too.
//!
//! The order makes an interruption harmless: the survey comes before the network
//! starts (it must know which slots to keep), and a journal goes last of all.

use crate::{
    config::NodeConfig,
    error::{Error, chain},
    journal::{Found, Journals, Record},
    spec::SandboxState,
};
use hearth_ids::SandboxId;
use hearth_machine::{Engine, Machine};
use hearth_snapshot::{ArtefactStore, Build, LocalStore};
use std::{collections::HashSet, fs, path::Path};

/// A VM that runs on, with everything that is known of it.
pub(crate) struct Adopted {
    pub build: Build,
    pub record: Record,
    pub machine: Box<dyn Machine>,
}

pub(crate) struct Survey {
    pub adopted: Vec<Adopted>,
}

impl Survey {
    /// Slots that live sandboxes use.
    pub(crate) fn slots(&self) -> Vec<u32> {
        self.adopted
            .iter()
            .filter_map(|adopted| adopted.record.slot)
            .collect()
    }
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
    let mut adopted = Vec::new();
    let mut dead = Vec::new();
    for found in found {
        match found {
            Found::Readable(record) => match adopt(*record, engine, builds).await {
                Ok(found) => adopted.push(found),
                Err((id, why)) => {
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
    let live: HashSet<&SandboxId> = adopted.iter().map(|a| &a.record.spec.sandbox_id).collect();
    sweep_run_dir(&config.run_dir.join("sb"), &live);
    Ok(Survey { adopted })
}

async fn adopt(
    record: Record,
    engine: &dyn Engine,
    builds: &LocalStore,
) -> Result<Adopted, (SandboxId, String)> {
    let id = record.spec.sandbox_id.clone();
    if record.state != SandboxState::Running {
        return Err((
            id,
            format!("it was {:?} when the daemon stopped", record.state),
        ));
    }
    let Some(machine) = record.machine.clone() else {
        return Err((id, "its journal names no VM".to_owned()));
    };
    let build = match builds.open(record.spec.build_id).await {
        Ok(build) => build,
        Err(error) => return Err((id, chain(&error))),
    };
    match engine.adopt(machine).await {
        Ok(machine) => Ok(Adopted {
            build,
            record,
            machine,
        }),
        Err(error) => Err((id, chain(&error))),
    }
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
