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

/// How many sandboxes there are, for admission.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub all: usize,
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
        let starting = handles
            .values()
            .filter(|handle| handle.state() == SandboxState::Starting)
            .count();
        if let Some(refusal) = refuse(Count {
            all: handles.len(),
            starting,
        }) {
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

    pub(crate) fn remove(&self, id: &SandboxId) {
        self.lock().remove(id);
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.lock().values().map(Handle::status).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Handle>> {
        // No code panics while it holds the lock; a poisoned map is still whole.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
