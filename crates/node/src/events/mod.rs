//! What happened to sandboxes, told once for each change, whatever dies in between.
//!
//! ```text
//!   note ──▶ journal, with the change itself ──▶ outbox ──▶ control plane ──▶ (forgotten)
//!              one rename                        a file      acknowledges
//! ```
//!
//! An event is written in the same journal as the change that it tells of. Only then
//! it goes into the outbox. A daemon that dies between the two leaves it in the journal,
//! whence the next one posts it. One that dies after both posts it once more: an event's
//! sandbox, execution, sequence and kind name it, so that whoever keeps it knows it.

mod outbox;
#[cfg(test)]
mod tests;

pub(crate) use outbox::Outbox;

use crate::{
    journal::{Journals, Record},
    spec::SandboxState,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io};

/// Events that a journal holds at most; more wait only while the disk takes none.
const MAX_PENDING: usize = 16;

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Created,
    /// Its end time or its network settings.
    Updated,
    Paused,
    Resumed,
    /// Its state was kept as a snapshot; it runs on.
    Checkpointed,
    /// Its state was kept for forks; it runs on.
    Forked,
    RolledBack,
    Killed,
}

/// Why a sandbox was paused or killed.
pub mod reason {
    /// Somebody asked for it.
    pub const REQUEST: &str = "request";
    /// Its time was over.
    pub const TIMEOUT: &str = "timeout";
    /// Its VM ended by itself.
    pub const VM_EXITED: &str = "vm_exited";
    /// Its VM was gone when the daemon came back: the host was restarted, or the VM
    /// ended while no daemon ran.
    pub const LOST: &str = "lost";
    /// A rollback did not come to its end.
    pub const ROLLBACK_FAILED: &str = "rollback_failed";
}

/// An event as its sandbox's journal holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Among those of the sandbox, from 1.
    pub sequence: u64,
    pub kind: EventKind,
    /// To the millisecond; rises from event to event.
    pub at: DateTime<Utc>,
    pub execution_id: ExecutionId,
    pub started_at: DateTime<Utc>,
    /// When the execution had ended, where that was before the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub details: Details,
}

/// What only some events tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The end time that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<DateTime<Utc>>,
    /// The network settings that were set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_json: Option<String>,
    /// The build that was made, or gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<BuildId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<SandboxId>,
}

impl Details {
    pub(crate) fn reason(reason: &str) -> Self {
        Self {
            reason: Some(reason.to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn build(build: BuildId) -> Self {
        Self {
            build_id: Some(build),
            ..Self::default()
        }
    }
}

/// An event with what it takes to understand it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxEvent {
    pub sandbox_id: SandboxId,
    pub template_id: TemplateId,
    pub build_id: BuildId,
    pub team_id: TeamId,
    pub metadata: BTreeMap<String, String>,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub event: Event,
}

/// A sandbox's events, as its journal keeps count of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Sequence of the last event.
    last: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_at: Option<DateTime<Utc>>,
    /// By what was told so far the sandbox is paused.
    #[serde(default)]
    paused: bool,
    /// Those that may not be in the outbox yet.
    pending: Vec<Event>,
    /// So many of the pending ones are in it.
    #[serde(skip)]
    posted: usize,
}

impl Ledger {
    /// Nothing was ever told: a sandbox that is being made, or was made by a version that
    /// told nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// Whether a sandbox that is paused, or is not, was told to be so.
    pub(crate) fn knows(&self, paused: bool) -> bool {
        self.is_empty() || self.paused == paused
    }
}

impl Record {
    /// Adds an event to the journal that is to be written.
    pub(crate) fn note(&mut self, kind: EventKind, details: Details) {
        let ledger = &mut self.events;
        ledger.pending.drain(..ledger.posted);
        ledger.posted = 0;
        if ledger.pending.len() >= MAX_PENDING {
            let lost = ledger.pending.remove(0);
            tracing::error!(sandbox = %self.spec.sandbox_id, kind = ?lost.kind, "an event is lost: the outbox takes none");
        }
        let now = Utc::now().trunc_subsecs(3);
        // Order must not depend on a clock that is set back.
        let at = match ledger.last_at {
            Some(last) => now.max(last + TimeDelta::milliseconds(1)),
            None => now,
        };
        ledger.last += 1;
        ledger.last_at = Some(at);
        ledger.paused = match kind {
            EventKind::Paused => true,
            EventKind::Created | EventKind::Resumed | EventKind::RolledBack => false,
            _ => ledger.paused,
        };
        ledger.pending.push(Event {
            sequence: ledger.last,
            kind,
            at,
            execution_id: self.execution_id,
            started_at: self.started_at,
            ended_at: self.paused.map(|paused| paused.at),
            details,
        });
    }

    /// The events that are to be posted.
    fn unposted(&self) -> Vec<SandboxEvent> {
        let pending = self.events.pending.iter().skip(self.events.posted);
        let shape = self.shape;
        pending
            .map(|event| SandboxEvent {
                sandbox_id: self.spec.sandbox_id.clone(),
                template_id: self.spec.template_id.clone(),
                build_id: self.spec.build_id,
                team_id: self.spec.team_id,
                metadata: self.spec.metadata.clone(),
                vcpus: shape.map_or(0, |shape| shape.vcpus),
                memory_mib: shape.map_or(0, |shape| {
                    u32::try_from(shape.memory_mib).unwrap_or(u32::MAX)
                }),
                event: event.clone(),
            })
            .collect()
    }
}

/// How a journal is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It outlives the daemon.
    Daemon,
    /// It outlives the host's power.
    Host,
}

/// Writes a sandbox's journal with an event in it, then posts the event. On an error
/// there is no event, and the former journal stands.
pub(crate) fn commit(
    (journals, outbox): (&Journals, &Outbox),
    record: &mut Record,
    (kind, details): (EventKind, Details),
    durability: Durability,
) -> io::Result<()> {
    let before = record.events.clone();
    record.note(kind, details);
    let written = match durability {
        Durability::Daemon => journals.write(record),
        Durability::Host => journals.write_durably(record),
    };
    if let Err(error) = written {
        record.events = before;
        return Err(error);
    }
    post(outbox, record);
    Ok(())
}

/// Posts what the journal says was not posted. Answers whether all of it outlives the
/// daemon in the outbox.
pub(crate) fn post(outbox: &Outbox, record: &mut Record) -> bool {
    let events = record.unposted();
    for event in events {
        if !outbox.post(event) {
            return false;
        }
        record.events.posted += 1;
    }
    true
}

/// Notes what a former daemon had no time to tell of a sandbox that goes on. The journal
/// is written with it, now or with the next change.
pub(crate) fn catch_up(record: &mut Record) {
    let paused = record.state == SandboxState::Paused;
    if record.events.knows(paused) {
        return;
    }
    match paused {
        true => record.note(EventKind::Paused, Details::default()),
        false => record.note(EventKind::Resumed, Details::default()),
    }
}
