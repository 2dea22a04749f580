//! One journal per sandbox: `sandboxes/<id>/journal.json`. It is written before
//! the first resource is taken and at every step after, by an atomic rename, and
//! removed after the last resource is given back. So whatever instant the daemon
//! dies at, the next one finds a journal for everything that may be left.
//!
//! A rename without fsync is enough for a sandbox that runs: its journal has to
//! outlive the daemon, not the host, for no VM outlives the host either. That of a
//! paused sandbox is written durably.

use crate::spec::{SandboxSpec, SandboxState};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId};
use hearth_machine::MachineRecord;
use hearth_snapshot::Shape;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirBuilderExt,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const FILE: &str = "journal.json";
const VERSION: u32 = 1;
/// A journal larger than this is not ours.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    pub spec: SandboxSpec,
    pub state: SandboxState,
    pub execution_id: ExecutionId,
    pub started_at: DateTime<Utc>,
    pub end_at: DateTime<Utc>,
    pub envd_version: String,
    /// Index of the network slot, once taken.
    pub slot: Option<u32>,
    /// The VM process, once started.
    pub machine: Option<MachineRecord>,
    /// Absent in journals from before it was kept.
    #[serde(default)]
    pub shape: Option<Shape>,
    /// Where the VM's memory came from; absent in journals from before there was a
    /// choice.
    #[serde(default)]
    pub origin: Option<Origin>,
    #[serde(default)]
    pub disk: DiskRecord,
    /// The build that is being made, while pausing and snapshotting.
    #[serde(default)]
    pub keeping: Option<Keeping>,
    /// What is kept, while paused and resuming.
    #[serde(default)]
    pub paused: Option<Paused>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Restored from this build: what it wrote since is a difference to it.
    Restored(BuildId),
    /// Booted: the memory file in the sandbox's directory is its memory.
    Booted,
}

/// What the sandbox's disk is made of: the layers of a build, then its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskRecord {
    /// The build below; absent for the one that the sandbox was created from.
    pub base: Option<BuildId>,
    /// Sealed layers in the sandbox's directory, the lowest first.
    pub sealed: Vec<String>,
    /// The layer that takes the writes.
    pub writable: String,
    /// Number of the next layer: names are not used twice.
    pub next: u32,
}

impl Default for DiskRecord {
    fn default() -> Self {
        Self {
            base: None,
            sealed: Vec::new(),
            writable: "disk".to_owned(),
            next: 1,
        }
    }
}

impl DiskRecord {
    /// A new disk over a build.
    pub(crate) fn over(&self, build: BuildId) -> Self {
        Self {
            base: Some(build),
            sealed: Vec::new(),
            writable: format!("disk-{}", self.next),
            next: self.next + 1,
        }
    }

    /// The same disk with its writable layer sealed and an empty one on top.
    pub(crate) fn sealed(&self) -> Self {
        let mut sealed = self.sealed.clone();
        sealed.push(self.writable.clone());
        Self {
            base: self.base,
            sealed,
            writable: format!("disk-{}", self.next),
            next: self.next + 1,
        }
    }

    /// The same disk with its sealed layers being those of `build` now.
    pub(crate) fn given_to(&self, build: BuildId) -> Self {
        Self {
            base: Some(build),
            sealed: Vec::new(),
            writable: self.writable.clone(),
            next: self.next,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keeping {
    pub build: BuildId,
    pub with_memory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paused {
    pub build: BuildId,
    pub with_memory: bool,
    pub at: DateTime<Utc>,
}

impl Record {
    pub(crate) fn new(spec: SandboxSpec, started_at: DateTime<Utc>, end_at: DateTime<Utc>) -> Self {
        Self {
            version: VERSION,
            spec,
            state: SandboxState::Starting,
            execution_id: ExecutionId::random(),
            started_at,
            end_at,
            envd_version: String::new(),
            slot: None,
            machine: None,
            shape: None,
            origin: None,
            disk: DiskRecord::default(),
            keeping: None,
            paused: None,
        }
    }

    /// As before anything was taken.
    pub(crate) fn forget_vm(&mut self) {
        (self.slot, self.machine) = (None, None);
        self.disk = DiskRecord::default();
    }

    /// The record of the same VM as the sandbox of other settings.
    pub(crate) fn given_to(
        self,
        spec: SandboxSpec,
        started_at: DateTime<Utc>,
        end_at: DateTime<Utc>,
    ) -> Self {
        Self {
            spec,
            started_at,
            end_at,
            execution_id: ExecutionId::random(),
            ..self
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin.unwrap_or(Origin::Restored(self.spec.build_id))
    }

    /// Every build that the sandbox needs, or is making.
    pub(crate) fn builds(&self) -> Vec<BuildId> {
        let mut builds = vec![self.disk_base()];
        if let Origin::Restored(build) = self.origin() {
            builds.push(build);
        }
        builds.extend(self.keeping.map(|keeping| keeping.build));
        builds.extend(self.paused.map(|paused| paused.build));
        builds
    }

    /// The build that the disk stands on.
    pub(crate) fn disk_base(&self) -> BuildId {
        self.disk.base.unwrap_or(self.spec.build_id)
    }

    /// Turns to paused: nothing of the host is held from here on.
    pub(crate) fn set_paused(&mut self, paused: Paused) {
        self.state = SandboxState::Paused;
        self.paused = Some(paused);
        self.keeping = None;
        self.slot = None;
        self.machine = None;
        self.origin = None;
        self.disk = self.disk.over(paused.build);
    }
}

/// The directory `sandboxes/` of the state directory.
#[derive(Debug, Clone)]
pub(crate) struct Journals {
    root: PathBuf,
}

/// What stands in one directory of `sandboxes/`.
#[derive(Debug)]
pub(crate) enum Found {
    Readable(Box<Record>),
    /// The directory has no journal that can be read; its resources are unknown.
    Unreadable {
        id: SandboxId,
        why: String,
    },
}

impl Found {
    /// The network slot of a sandbox that is up.
    pub(crate) fn slot(&self) -> Option<u32> {
        match self {
            Self::Readable(record) if record.state.is_up() => record.slot,
            _ => None,
        }
    }
}

impl Journals {
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&root)?;
        Ok(Self { root })
    }

    /// The directory of one sandbox, for its journal and its disk layer.
    pub(crate) fn dir(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Makes the sandbox's directory and writes its first journal.
    pub(crate) fn create(&self, record: &Record) -> io::Result<()> {
        let dir = self.dir(&record.spec.sandbox_id);
        fs::DirBuilder::new().mode(0o711).create(&dir)?;
        self.write(record).inspect_err(|_| {
            // Nothing but our own file can be in there yet.
            let _ = fs::remove_dir_all(&dir);
        })
    }

    /// Replaces the journal. On an error the former one still stands.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        self.replace(record, false)
    }

    /// The same, and the new one survives a power cut. On an error either stands.
    pub(crate) fn write_durably(&self, record: &Record) -> io::Result<()> {
        self.replace(record, true)
    }

    fn replace(&self, record: &Record, durably: bool) -> io::Result<()> {
        let dir = self.dir(&record.spec.sandbox_id);
        let new = dir.join("journal.json.new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let text = serde_json::to_vec(record)?;
        io::Write::write_all(&mut file, &text)?;
        if durably {
            file.sync_data()?;
        }
        fs::rename(&new, dir.join(FILE))?;
        if durably {
            fs::File::open(&dir)?.sync_all()?;
            fs::File::open(&self.root)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes everything in the sandbox's directory but the journal and the named
    /// entries.
    pub(crate) fn clear(&self, id: &SandboxId, keep: &[&str]) -> io::Result<()> {
        for entry in fs::read_dir(self.dir(id))? {
            let entry = entry?;
            let name = entry.file_name();
            if name == FILE || keep.iter().any(|kept| name == *kept) {
                continue;
            }
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Removes the sandbox's directory, the journal last of all: a removal that
    /// is interrupted is found and repeated.
    pub(crate) fn remove(&self, id: &SandboxId) -> io::Result<()> {
        let dir = self.dir(id);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == FILE) {
                continue;
            }
            if path.is_dir() {
                fs::remove_dir_all(&path)?
            } else {
                fs::remove_file(&path)?
            }
        }
        fs::remove_dir_all(dir)
    }

    /// Every sandbox directory that a former daemon left.
    pub(crate) fn scan(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let Some(id) = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok())
            else {
                tracing::warn!(path = %path.display(), "leaving a foreign file among the sandboxes");
                continue;
            };
            found.push(match read(&path.join(FILE)) {
                Ok(record) if record.spec.sandbox_id == id => Found::Readable(Box::new(record)),
                Ok(_) => Found::Unreadable {
                    id,
                    why: "it names another sandbox".to_owned(),
                },
                Err(error) => Found::Unreadable {
                    id,
                    why: error.to_string(),
                },
            });
        }
        Ok(found)
    }
}

pub(crate) fn kept_builds(root: &Path) -> io::Result<BTreeSet<BuildId>> {
    if !root.exists() {
        return Ok(BTreeSet::new());
    }
    let journals = Journals {
        root: root.to_owned(),
    };
    let mut builds = BTreeSet::new();
    for found in journals.scan()? {
        match found {
            Found::Readable(record) => builds.extend(record.builds()),
            Found::Unreadable { id, why } => {
                let why = format!("the journal of sandbox {id}: {why}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }
    Ok(builds)
}

fn read(path: &Path) -> io::Result<Record> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the journal is too large",
        ));
    }
    let record: Record = serde_json::from_slice(&fs::read(path)?)?;
    if record.version != VERSION {
        let why = format!("journal version {} is not {VERSION}", record.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(record)
}
