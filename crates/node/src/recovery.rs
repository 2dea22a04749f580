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
//! | what this version cannot read, or cannot now | | quarantined: left as it is, VM and all |
//!
//! The order makes an interruption harmless: the survey comes before the network
//! starts (it must know which slots to keep), and a journal goes last of all. Nothing
//! here needs to write: with a full disk, what is paused is paused all the same.

use crate::{
    config::NodeConfig,
    error::{Error, chain},
    events::{self, Details, EventKind, Outbox, reason},
    journal::{Found, Journals, Paused, Quarantined, Record},
    sandbox::{egress, ground::Ground},
    spec::SandboxState,
};
use hearth_ids::SandboxId;
use hearth_machine::{Engine, Machine};
use hearth_snapshot::{BuildCache, LocalStore};
use std::{
    collections::HashSet,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// In the run directory: the sandboxes that are quarantined now, for `hearth doctor`.
const QUARANTINE_FILE: &str = "quarantine.json";

/// A VM that runs on, with everything that is known of it.
pub(crate) struct Adopted {
    pub ground: Ground,
    pub record: Record,
    pub machine: Box<dyn Machine>,
}

pub(crate) struct Survey {
    pub adopted: Vec<Adopted>,
    pub paused: Vec<Record>,
    pub quarantined: Vec<Quarantined>,
    /// Slots of paused sandboxes whose former VM processes do not end.
    pub held: Vec<u32>,
}

impl Survey {
    /// Slots that live sandboxes use, with what these may reach; and those that
    /// quarantined ones may use, which reach nothing unless it is known what, as
    /// nothing does that should have ended.
    pub(crate) fn slots(&self) -> Vec<hearth_network::Adoption> {
        let adopted = self.adopted.iter().map(|adopted| &adopted.record);
        let adopted =
            adopted.filter_map(|record| Some(egress::adoption(record.slot?, Some(&record.spec))));
        let quarantined = self.quarantined.iter();
        let quarantined = quarantined
            .filter_map(|found| Some(egress::adoption(found.slot?, found.spec.as_deref())));
        let held = self.held.iter().map(|slot| egress::adoption(*slot, None));
        let mut slots: Vec<hearth_network::Adoption> = adopted.collect();
        for slot in quarantined.chain(held) {
            if !slots.iter().any(|taken| taken.index == slot.index) {
                slots.push(slot);
            }
        }
        slots
    }
}

/// A sandbox that the daemon left as it found it, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QuarantinedSandbox {
    pub sandbox_id: SandboxId,
    pub why: String,
}

/// What the daemon of this run directory has in quarantine.
///
/// # Errors
/// When it cannot be read.
pub fn quarantine_of_daemon(run_dir: &Path) -> io::Result<Vec<QuarantinedSandbox>> {
    match fs::read(run_dir.join(QUARANTINE_FILE)) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The daemon stops: what it had in quarantine is looked for anew by the next.
pub(crate) fn forget_quarantine(run_dir: &Path) {
    let _ = fs::remove_file(run_dir.join(QUARANTINE_FILE));
}

/// What a daemon that started now would put into quarantine for its journal.
///
/// # Errors
/// When the directory of sandboxes cannot be read.
pub fn quarantine_to_be(state_dir: &Path) -> io::Result<Vec<QuarantinedSandbox>> {
    let root = state_dir.join("sandboxes");
    if !root.exists() {
        return Ok(Vec::new());
    }
    let found = Journals::at(root).scan()?;
    Ok(found
        .into_iter()
        .filter_map(|found| match found {
            Found::Quarantined(found) => Some(QuarantinedSandbox {
                sandbox_id: found.id,
                why: found.why,
            }),
            _ => None,
        })
        .collect())
}

/// What becomes of a sandbox.
enum Fate {
    Adopted(Box<Adopted>),
    /// With the slot that its VM had, where it was up.
    Paused(Box<Record>, Option<u32>),
    Dead(Box<Record>, String),
    /// It may be alive, or could be brought back by another daemon.
    Undecided(Quarantined),
}

/// Why a VM was not adopted.
enum NotAdopted {
    /// It is no more.
    Gone(String),
    /// It may run on.
    Unable(String),
}

pub(crate) async fn survey(
    (journals, outbox): (&Journals, &Outbox),
    config: &NodeConfig,
    engine: &dyn Engine,
    builds: &LocalStore,
) -> Result<Survey, Error> {
    let found = journals
        .scan()
        .map_err(Error::step("read the journals of sandboxes"))?;
    let (mut adopted, mut paused, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    let (mut quarantined, mut held) = (Vec::new(), Vec::new());
    for found in found {
        match found {
            Found::Readable(record) => match decide(*record, engine, builds).await {
                Fate::Adopted(mut found) => {
                    events::catch_up(&mut found.record);
                    events::post(outbox, &mut found.record);
                    adopted.push(*found);
                }
                Fate::Paused(mut record, slot) => {
                    events::catch_up(&mut record);
                    events::post(outbox, &mut record);
                    let id = &record.spec.sandbox_id;
                    if let Err(error) = end_processes(id) {
                        tracing::error!(sandbox = %id, error = %chain(&error), "a paused sandbox's processes do not end");
                        held.extend(slot);
                    }
                    paused.push(*record);
                }
                Fate::Dead(mut record, why) => {
                    let id = record.spec.sandbox_id.clone();
                    tracing::warn!(sandbox = %id, why, "a sandbox did not outlive the daemon's stop");
                    // Its slot and user are for others only when nothing of it runs.
                    match end_processes(&id) {
                        Ok(()) => {
                            tell_end(&mut record, outbox);
                            dead.push(id);
                        }
                        Err(error) => {
                            let why = format!("its processes do not end: {}", chain(&error));
                            quarantined.push(Quarantined::undecided(&record, why));
                        }
                    }
                }
                Fate::Undecided(found) => quarantined.push(found),
            },
            Found::Empty(id) => dead.push(id),
            Found::Quarantined(found) => quarantined.push(found),
        }
    }
    quarantine(&quarantined, journals, &config.run_dir, builds);
    let run_dirs = config.run_dir.join("sb");
    let keep = Keep {
        pids: adopted.iter().map(|found| found.machine.pid()).collect(),
        run_dirs: quarantined
            .iter()
            .map(|found| run_dirs.join(found.id.as_str()))
            .collect(),
    };
    end_orphans(&run_dirs, &keep);
    for id in &dead {
        clean(id, journals, config);
    }
    for record in &paused {
        settle(record, journals);
    }
    let adopted_ids = adopted.iter().map(|a| &a.record.spec.sandbox_id);
    let live: HashSet<&SandboxId> = adopted_ids
        .chain(quarantined.iter().map(|found| &found.id))
        .collect();
    sweep_run_dir(&run_dirs, &live);
    Ok(Survey {
        adopted,
        paused,
        quarantined,
        held,
    })
}

/// Tells of the end of a sandbox, unless nobody was told of its begin or its driver did.
fn tell_end(record: &mut Record, outbox: &Outbox) {
    match record.state {
        SandboxState::Starting => return,
        SandboxState::Stopping => {}
        _ => record.note(EventKind::Killed, Details::reason(reason::LOST)),
    }
    events::post(outbox, record);
}

/// Ends what runs in a sandbox's control group, whoever knows of it, and takes away its
/// block device.
fn end_processes(id: &SandboxId) -> Result<(), hearth_confine::Error> {
    let cgroup = hearth_microvm::names::sandbox_cgroup(id);
    hearth_confine::remove_cgroup(&cgroup)?;
    hearth_microvm::release_device(&cgroup);
    Ok(())
}

/// Says what is left alone, and keeps the builds that it may need: all that are there,
/// where nobody can tell which.
fn quarantine(found: &[Quarantined], journals: &Journals, run_dir: &Path, builds: &LocalStore) {
    for found in found {
        tracing::error!(sandbox = %found.id, why = found.why, "a sandbox is left as it is, in quarantine");
        found.lease_builds(journals, builds);
    }
    let list: Vec<QuarantinedSandbox> = found
        .iter()
        .map(|found| QuarantinedSandbox {
            sandbox_id: found.id.clone(),
            why: found.why.clone(),
        })
        .collect();
    let write = || -> io::Result<()> {
        fs::create_dir_all(run_dir)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(run_dir.join(QUARANTINE_FILE))?;
        file.write_all(&serde_json::to_vec(&list)?)
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "the list of quarantined sandboxes cannot be written");
    }
}

async fn decide(mut record: Record, engine: &dyn Engine, builds: &LocalStore) -> Fate {
    let (keeping, slot) = (record.keeping, record.slot);
    let mut half_read = None;
    match (record.state, keeping, record.paused) {
        (SandboxState::Pausing, Some(keeping), _) => match builds.open(keeping.build).await {
            Ok(_) => {
                end_vm(&record, engine).await;
                record.set_paused(Paused {
                    build: keeping.build,
                    with_memory: keeping.with_memory,
                    at: chrono::Utc::now(),
                });
                return Fate::Paused(Box::new(record), slot);
            }
            Err(hearth_snapshot::Error::NotFound(_)) => {}
            Err(error) => half_read = Some(chain(&error)),
        },
        (SandboxState::Paused | SandboxState::Resuming, _, Some(paused)) => {
            end_vm(&record, engine).await;
            record.set_paused(paused);
            return Fate::Paused(Box::new(record), slot);
        }
        (SandboxState::Paused | SandboxState::Resuming, _, None) => {
            let why = "it is paused, and its journal does not say at which build".to_owned();
            return Fate::Undecided(Quarantined::undecided(&record, why));
        }
        _ => {}
    }
    if let (SandboxState::Snapshotting, Some(keeping)) = (record.state, keeping) {
        // Links into it are the sandbox's own files too, which stay.
        let _ = builds.remove(keeping.build).await;
    }
    let before = record.clone();
    match (adopt(record, engine, builds).await, half_read) {
        (Ok(adopted), _) => Fate::Adopted(Box::new(adopted)),
        (Err(NotAdopted::Unable(why)), _) | (Err(NotAdopted::Gone(_)), Some(why)) => {
            Fate::Undecided(Quarantined::undecided(&before, why))
        }
        (Err(NotAdopted::Gone(why)), None) => Fate::Dead(Box::new(before), why),
    }
}

async fn adopt(
    mut record: Record,
    engine: &dyn Engine,
    builds: &LocalStore,
) -> Result<Adopted, NotAdopted> {
    if !record.state.is_up() {
        let why = format!("it was {:?} when the daemon stopped", record.state);
        return Err(NotAdopted::Gone(why));
    }
    let Some(machine) = record.machine.clone() else {
        return Err(NotAdopted::Gone("its journal names no VM".to_owned()));
    };
    let unable = |error: &dyn std::error::Error| NotAdopted::Unable(chain(error));
    let machine = engine.adopt(machine).await.map_err(|error| match error {
        hearth_machine::Error::Gone { .. } => NotAdopted::Gone(chain(&error)),
        error => unable(&error),
    })?;
    let ground = Ground::of(builds, &record)
        .await
        .map_err(|error| unable(&error))?;
    record.shape = Some(ground.disk.build.manifest.shape);
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

/// Leaves a paused sandbox with its journal alone. Its run directory is swept. What
/// cannot be done now, for want of disk space, is done at a later start.
fn settle(record: &Record, journals: &Journals) {
    let id = &record.spec.sandbox_id;
    match journals.write_durably(record) {
        Ok(()) => {
            if let Err(error) = journals.clear(id, &[]) {
                tracing::error!(sandbox = %id, %error, "removing a paused sandbox's own files failed");
            }
        }
        // The former one leads a later daemon to the same end.
        Err(error) => {
            tracing::error!(sandbox = %id, %error, "writing a paused sandbox's journal failed");
        }
    }
}

/// What is not to be ended.
struct Keep {
    pids: HashSet<u32>,
    /// Of quarantined sandboxes: their VMs, whichever these are.
    run_dirs: Vec<PathBuf>,
}

/// Ends every VM process that names our run directory and was not adopted. A
/// daemon that died between starting a VM and journalling it leaves such a one.
fn end_orphans(run_dir: &Path, keep: &Keep) {
    let naming = |directory: &Path| match directory.to_str() {
        Some(directory) => hearth_machine::processes::naming(&format!("{directory}/")),
        None => Vec::new(),
    };
    let kept: HashSet<u32> = keep.run_dirs.iter().flat_map(|dir| naming(dir)).collect();
    for pid in naming(run_dir) {
        if keep.pids.contains(&pid) || kept.contains(&pid) {
            continue;
        }
        tracing::warn!(pid, "ending a VM process that no sandbox owns");
        if let Err(error) = hearth_machine::processes::end(pid) {
            tracing::error!(pid, %error, "ending a VM process failed");
        }
    }
}

fn clean(id: &SandboxId, journals: &Journals, config: &NodeConfig) {
    if let Err(error) = end_processes(id) {
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
