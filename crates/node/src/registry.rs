//! The sandboxes of this node by id: how to reach each one's driver, and its
//! status. The lock is held for look-ups and changes of the map alone.

use crate::{
    error::Error,
    sandbox::Handle,
    spec::{SandboxState, Status},
};
use hearth_ids::SandboxId;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
pub(crate) struct Registry {
    handles: Mutex<HashMap<SandboxId, Handle>>,
}

/// How many sandboxes there are, for admission; the paused ones take nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub active: usize,
    pub starting: usize,
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
        let mut handles = self.lock();
        if handles.contains_key(id) {
            return Err(Error::AlreadyExists(id.clone()));
        }
        if let Some(refusal) = refuse(count(handles.values())) {
            return Err(refusal);
        }
        handles.insert(id.clone(), handle);
        Ok(())
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Result<Handle, Error> {
        self.lock()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::NotFound(id.clone()))
    }

    pub(crate) fn has(&self, id: &SandboxId) -> bool {
        self.lock().contains_key(id)
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        self.lock().remove(id);
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.lock().values().map(Handle::status).collect()
    }

    /// The sandboxes beside the one of this id.
    pub(crate) fn count_others(&self, id: &SandboxId) -> Count {
        let handles = self.lock();
        count(
            handles
                .iter()
                .filter(|(other, _)| *other != id)
                .map(|(_, handle)| handle),
        )
    }

    pub(crate) fn count(&self) -> Count {
        count(self.lock().values())
    }

    pub(crate) fn active(&self) -> usize {
        count(self.lock().values()).active
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Handle>> {
        // No code panics while it holds the lock; a poisoned map is still whole.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
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
