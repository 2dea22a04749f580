//! Who needs which build right now, in this process. A build that somebody holds
//! a [`Lease`] on, and every build below it, survives garbage collection.
//!
//! Collecting holds the register's lock from looking to removing (a rename), so a
//! lease is either seen or taken too late: then the build is found missing.

use hearth_ids::BuildId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
pub(crate) struct Register {
    held: Mutex<HashMap<BuildId, usize>>,
}

/// Keeps a build from being collected until it is dropped.
#[derive(Debug)]
pub struct Lease {
    id: BuildId,
    register: Arc<Register>,
}

impl Register {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<BuildId, usize>> {
        // Nothing panics while it holds the lock; a poisoned map is still whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(self: &Arc<Self>, id: BuildId) -> Lease {
        *self.lock().entry(id).or_default() += 1;
        Lease {
            id,
            register: Arc::clone(self),
        }
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
        let mut held = self.register.lock();
        if let Some(count) = held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.id);
            }
        }
    }
}
