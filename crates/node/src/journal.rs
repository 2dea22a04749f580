//! One journal per sandbox: `sandboxes/<id>/journal.json`. It is written before
//! the first resource is taken and at every step after, by an atomic rename, and
//! removed after the last resource is given back. So whatever instant the daemon
//! dies at, the next one finds a journal for everything that may be left.
//!
//! A rename without fsync is enough for a sandbox that runs: its journal has to
//! outlive the daemon, not the host, for no VM outlives the host either. That of a
//! paused sandbox is written durably.
//!
//! A journal carries the version of its format, and the oldest version that can
//! read it where that is another. Fields that this version does not know are kept
//! through every rewrite ([`unknown`]); a journal that it cannot read is left alone
//! ([`Found::Quarantined`]).

mod files;
/// Reads a journal and, if it is one, checks that writing it changes nothing.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_and_write(bytes: &[u8]) {
    let Ok(document) = serde_json::from_slice(bytes) else {
        return;
    };
    let Ok(record) = Record::parse(&document) else {
        return;
    };
    let text = record.text().expect("what was read can be written");
    let again = serde_json::from_slice(&text).expect("JSON");
    let again = Record::parse(&again).expect("what was written can be read");
    assert_eq!(text, again.text().expect("written"), "and stays the same");
}

#[cfg(test)]
mod tests;
mod unknown;

use crate::events::event::Ledger;
use crate::spec::{SandboxSpec, SandboxState};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId};
use hearth_machine::MachineRecord;
use hearth_snapshot::Shape;
use serde::{Deserialize, Serialize};
use unknown::Unknown;

pub(crate) use files::{Found, Journals, Quarantined, check_spec, lease_builds};

const VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of the format that it was written in.
    version: u32,
    /// The oldest version of the format whose programs can read it; absent where
    /// that is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_version: Option<u32>,
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
    /// The sandbox whose state it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<SandboxId>,
    /// What was told of it, and what is to be.
    #[serde(default, skip_serializing_if = "Ledger::is_empty")]
    pub events: Ledger,
    /// What a newer version wrote beside these.
    #[serde(skip)]
    unknown: Unknown,
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
pub(crate) struct Keeping {
    pub build: BuildId,
    pub with_memory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paused {
    pub build: BuildId,
    pub with_memory: bool,
    pub at: DateTime<Utc>,
}

/// Why a journal cannot be read. A sentence each.
#[derive(Debug)]
enum NotRead {
    /// A newer version wrote it: what it says can be trusted, where it is understood.
    Newer(String),
    /// It is not what any version wrote.
    Damaged(String),
}

impl Record {
    pub(crate) fn new(spec: SandboxSpec, started_at: DateTime<Utc>, end_at: DateTime<Utc>) -> Self {
        Self {
            version: VERSION,
            min_version: None,
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
            forked_from: None,
            events: Ledger::default(),
            unknown: Unknown::default(),
        }
    }

    /// Reads a journal that this version can read.
    fn parse(document: &serde_json::Value) -> Result<Self, NotRead> {
        let damaged = |error: serde_json::Error| NotRead::Damaged(error.to_string());
        let number = |field: &str| document.get(field).and_then(serde_json::Value::as_u64);
        let no_version = || NotRead::Damaged("it has no version".to_owned());
        let version = number("version").ok_or_else(no_version)?;
        let oldest = number("min_version").unwrap_or(version);
        if oldest > u64::from(VERSION) {
            return Err(NotRead::Newer(format!(
                "a newer version wrote it (format {version}, here is {VERSION})"
            )));
        }
        let mut record = Self::deserialize(document).map_err(damaged)?;
        let known = serde_json::to_value(&record).map_err(damaged)?;
        record.unknown = Unknown::of(document, &known);
        Ok(record)
    }

    /// The journal's text, with what was not understood when it was read.
    fn text(&self) -> serde_json::Result<Vec<u8>> {
        if self.unknown.is_empty() {
            return serde_json::to_vec(self);
        }
        let mut document = serde_json::to_value(self)?;
        self.unknown.restore(&mut document);
        serde_json::to_vec(&document)
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
