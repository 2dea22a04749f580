//! The sandboxes of this node by id: how to reach each one's driver, its status, and
//! in which order they changed. The lock is held for look-ups and changes of the maps
//! alone.
//!
//! Every change gets the next sequence number and is shown under the lock, so that
//! whoever knows everything up to a number misses nothing. Only each sandbox's latest
//! change is held, and the ids of the last ones that went: what watchers cost does not
//! depend on how slow they are.

use crate::{
    error::Error,
    sandbox::Handle,
    spec::{SandboxState, Status},
};
use hearth_ids::SandboxId;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Sandboxes that went and are still told to those who were away meanwhile.
const MAX_REMOVED: usize = 4096;

#[derive(Debug)]
pub(crate) struct Registry {
    /// Tells the sequence numbers of this registry from those of every other.
    instance: u64,
    inner: Mutex<Inner>,
    /// The last sequence number.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<SandboxId, Entry>,
    /// The sandboxes by their latest changes.
    order: BTreeMap<u64, SandboxId>,
    /// Those that went, the first one first.
    removed: VecDeque<Removal>,
    last: u64,
    /// Every removal after this change is in `removed`.
    floor: u64,
}

#[derive(Debug)]
struct Entry {
    handle: Handle,
    sequence: u64,
}

/// A sandbox that went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    pub id: SandboxId,
    pub sequence: u64,
}

/// Some of the changes after one that is known, in their order.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub changed: Vec<Status>,
    pub removed: Vec<Removal>,
    /// With these everything up to here is known.
    pub sequence: u64,
    /// Nothing is left to tell.
    pub complete: bool,
}

/// How many sandboxes there are, for admission; the paused ones take nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub active: usize,
    pub starting: usize,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            // Its keys come from the system's source of randomness.
            instance: RandomState::new().hash_one("hearth-node"),
            inner: Mutex::default(),
            news: watch::Sender::new(0),
        }
    }
}

impl Registry {
    /// Adds a sandbox unless its id is taken or `refuse` objects to the count.
    /// Counting and adding are one step, so that racing starts cannot overshoot.
    pub(crate) fn insert(
        &self,
        id: &SandboxId,
        handle: Handle,
        refuse: impl FnOnce(Count) -> Option<Error>,
    ) -> Result<(), Error> {
        let mut inner = self.lock();
        if inner.entries.contains_key(id) {
            return Err(Error::AlreadyExists(id.clone()));
        }
        if let Some(refusal) = refuse(count(inner.handles())) {
            return Err(refusal);
        }
        let sequence = inner.next();
        inner.order.insert(sequence, id.clone());
        let entry = Entry { handle, sequence };
        inner.entries.insert(id.clone(), entry);
        self.news.send_replace(sequence);
        Ok(())
    }

    /// Shows others a change of a sandbox: `show` makes its status readable, which
    /// carries the sequence number of the change.
    pub(crate) fn publish(&self, id: &SandboxId, show: impl FnOnce(u64)) {
        let mut inner = self.lock();
        let sequence = inner.next();
        show(sequence);
        let Inner { entries, order, .. } = &mut *inner;
        if let Some(entry) = entries.get_mut(id) {
            order.remove(&entry.sequence);
            entry.sequence = sequence;
            order.insert(sequence, id.clone());
        }
        self.news.send_replace(sequence);
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Result<Handle, Error> {
        self.lock()
            .entries
            .get(id)
            .map(|entry| entry.handle.clone())
            .ok_or_else(|| Error::NotFound(id.clone()))
    }

    pub(crate) fn has(&self, id: &SandboxId) -> bool {
        self.lock().entries.contains_key(id)
    }

    /// Takes a sandbox out; returns the sequence number of that.
    pub(crate) fn remove(&self, id: &SandboxId) -> u64 {
        let mut inner = self.lock();
        let sequence = inner.next();
        if let Some(entry) = inner.entries.remove(id) {
            inner.order.remove(&entry.sequence);
            let id = id.clone();
            inner.removed.push_back(Removal { id, sequence });
            if inner.removed.len() > MAX_REMOVED
                && let Some(forgotten) = inner.removed.pop_front()
            {
                inner.floor = forgotten.sequence;
            }
        }
        self.news.send_replace(sequence);
        sequence
    }

    pub(crate) fn status(&self, id: &SandboxId) -> Result<Status, Error> {
        self.lock()
            .entries
            .get(id)
            .map(Entry::status)
            .ok_or_else(|| Error::NotFound(id.clone()))
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.lock().entries.values().map(Entry::status).collect()
    }

    /// Tells this node's sequence numbers from those of its former and later runs.
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// Is told the number of every change; and how many are, with this one.
    pub(crate) fn news(&self) -> (watch::Receiver<u64>, usize) {
        let news = self.news.subscribe();
        (news, self.news.receiver_count())
    }

    /// Number of the last change.
    pub(crate) fn last(&self) -> u64 {
        self.lock().last
    }

    /// The changes after the one of number `after`, as many as fit into `most` bytes
    /// by `size`, but one at least. Of sandboxes that went by the change of number
    /// `begun` nothing is told: whoever has read from 0 since then never heard of them.
    /// `None` where removals after both have been forgotten, or where there never was a
    /// change of this number.
    pub(crate) fn changes(
        &self,
        after: u64,
        begun: u64,
        most: usize,
        size: impl Fn(&Status) -> usize,
    ) -> Option<Changes> {
        let inner = self.lock();
        let known = after.max(begun);
        if known > inner.last || known < inner.floor {
            return None;
        }
        let mut changes = Changes {
            sequence: inner.last,
            complete: true,
            ..Changes::default()
        };
        let mut bytes = 0;
        for (sequence, id) in inner.order.range(after + 1..) {
            let Some(entry) = inner.entries.get(id) else {
                continue;
            };
            let status = entry.status();
            bytes += size(&status);
            if bytes > most && !changes.changed.is_empty() {
                // What comes later is told later, removals too.
                changes.sequence = sequence - 1;
                changes.complete = false;
                break;
            }
            changes.changed.push(status);
        }
        let told =
            |removal: &&Removal| removal.sequence > known && removal.sequence <= changes.sequence;
        changes.removed = inner.removed.iter().filter(told).cloned().collect();
        Some(changes)
    }

    /// The sandboxes beside the one of this id.
    pub(crate) fn count_others(&self, id: &SandboxId) -> Count {
        let inner = self.lock();
        count(
            inner
                .entries
                .iter()
                .filter(|(other, _)| *other != id)
                .map(|(_, entry)| &entry.handle),
        )
    }

    pub(crate) fn count(&self) -> Count {
        count(self.lock().handles())
    }

    pub(crate) fn active(&self) -> usize {
        self.count().active
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock; poisoned maps are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.entries.values().map(|entry| &entry.handle)
    }
}

impl Entry {
    fn status(&self) -> Status {
        Status {
            sequence: self.sequence,
            ..self.handle.status()
        }
    }
}

fn count<'a>(handles: impl Iterator<Item = &'a Handle>) -> Count {
    let mut count = Count {
        active: 0,
        starting: 0,
    };
    for handle in handles {
        match handle.state() {
            SandboxState::Paused => continue,
            SandboxState::Starting | SandboxState::Resuming => count.starting += 1,
            _ => {}
        }
        count.active += 1;
    }
    count
}

#[cfg(test)]
pub(crate) mod tests;
