//! All processes that were started here: the running ones, and for a while
//! those that have ended.

use hearth_util::LockExt as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use hearth_guest_proto::process::__buffa::oneof::process_selector::Selector;
use hearth_guest_proto::process::ProcessSelector;

use super::Process;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectError {
    #[error("process selector is missing")]
    Missing,
    #[error("process with pid {0} not found")]
    Pid(u32),
    #[error("process with tag {0} not found")]
    Tag(String),
}

/// Processes in the order in which they were started.
#[derive(Debug, Default)]
pub struct Table(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    processes: BTreeMap<u64, Arc<Process>>,
}

impl Table {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock_unpoisoned()
    }

    /// Adds a process; the key removes it again.
    pub fn insert(&self, process: Arc<Process>) -> u64 {
        let mut entries = self.entries();
        let key = entries.next;
        entries.next += 1;
        entries.processes.insert(key, process);
        key
    }

    pub fn remove(&self, key: u64) {
        self.entries().processes.remove(&key);
    }

    /// Also those that have ended.
    pub fn all(&self) -> Vec<Arc<Process>> {
        self.entries().processes.values().cloned().collect()
    }

    pub fn running(&self) -> Vec<Arc<Process>> {
        self.entries()
            .processes
            .values()
            .filter(|process| process.is_running())
            .cloned()
            .collect()
    }

    /// The process that is meant, running or ended. Of several, a running one
    /// before an ended one; then of equal tags the oldest, of equal pids (they
    /// are used again) the newest.
    pub fn find(&self, selector: &ProcessSelector) -> Result<Arc<Process>, SelectError> {
        let entries = self.entries();
        let mut all = entries.processes.values();
        match &selector.selector {
            None => Err(SelectError::Missing),
            Some(Selector::Pid(pid)) => all
                .filter(|process| process.pid == *pid)
                .max_by_key(|process| process.is_running())
                .cloned()
                .ok_or(SelectError::Pid(*pid)),
            Some(Selector::Tag(tag)) => {
                let tagged = |process: &&Arc<Process>| process.tag.as_deref() == Some(tag);
                all.clone()
                    .find(|process| tagged(process) && process.is_running())
                    .or_else(|| all.find(tagged))
                    .cloned()
                    .ok_or_else(|| SelectError::Tag(tag.clone()))
            }
        }
    }

    /// Like [`Self::find`], but an ended process is as good as none.
    pub fn find_running(&self, selector: &ProcessSelector) -> Result<Arc<Process>, SelectError> {
        let process = self.find(selector)?;
        if process.is_running() {
            return Ok(process);
        }
        Err(match &selector.selector {
            Some(Selector::Tag(tag)) => SelectError::Tag(tag.clone()),
            _ => SelectError::Pid(process.pid),
        })
    }
}
