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

pub(crate) mod event;
mod outbox;
#[cfg(test)]
mod tests;

pub use event::{Details, Event, EventKind, SandboxEvent, reason};
pub(crate) use outbox::Outbox;

use crate::{
    journal::{Journals, Record},
    spec::SandboxState,
};
use chrono::{SubsecRound, TimeDelta, Utc};
use std::io;

/// Events that a journal holds at most; more wait only while the disk takes none.
const MAX_PENDING: usize = 16;

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
