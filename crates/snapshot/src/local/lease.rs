//! Who needs which build right now, in this process. A build that somebody holds
//! a [`Lease`] on, and every build below it, survives garbage collection.
//!
//! Collecting reads the builds first and then takes the register's lock, to decide
//! and to remove (by a rename). So a lease is either seen, or taken too late: then
//! the build is found missing. What was published meanwhile makes it read again.

use crate::hold::Holds;
use hearth_ids::BuildId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
pub(super) struct Register {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) held: HashMap<BuildId, usize>,
    /// Builds published since the start.
    pub(super) published: u64,
    /// What stays for those that cannot be read.
    pub(super) holds: Holds,
}

/// Keeps a build from being collected until it is dropped.
#[derive(Debug)]
pub struct Lease {
    id: BuildId,
    register: Arc<Register>,
}

impl Register {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; a poisoned map is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(self: &Arc<Self>, id: BuildId) -> Lease {
        *self.lock().held.entry(id).or_default() += 1;
        Lease {
            id,
            register: Arc::clone(self),
        }
    }
}

impl Register {
    /// A lease for as long as the process lives.
    pub(super) fn keep(&self, id: BuildId) {
        *self.lock().held.entry(id).or_default() += 1;
    }
}

impl Lease {
    #[must_use]
    pub fn id(&self) -> BuildId {
        self.id
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        self.register.take(self.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.register.lock();
        if let Some(count) = state.held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.id);
            }
        }
    }
}
