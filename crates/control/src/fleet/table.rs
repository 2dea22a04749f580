//! What is known of a node's sandboxes: a table without clock, lock or I/O, fed by the
//! node's watch and by its answers to calls, in whichever order they arrive.
//!
//! Of two words about one sandbox the one with the higher sequence number counts. A
//! removal is remembered until the watch has come past it, so that an older word that
//! is still on its way brings nothing back.

use crate::node::{Revision, SandboxBatch, SandboxSummary};
use hearth_ids::{SandboxId, TeamId, TemplateId};
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// The sandboxes of one run of a node.
#[derive(Debug, Default)]
pub(crate) struct Table {
    instance: u64,
    /// Every change up to here is known.
    position: u64,
    sandboxes: HashMap<SandboxId, Arc<SandboxSummary>>,
    teams: Index<TeamId>,
    templates: Index<TemplateId>,
    /// Sandboxes that went by changes after `position`.
    removed: HashMap<SandboxId, u64>,
}

impl Table {
    pub(crate) fn of(instance: u64) -> Self {
        Self {
            instance,
            ..Self::default()
        }
    }

    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// Where a watch may go on.
    pub(crate) fn position(&self) -> Revision {
        Revision {
            instance: self.instance,
            sequence: self.position,
        }
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<&Arc<SandboxSummary>> {
        self.sandboxes.get(id)
    }

    pub(crate) fn of_team(&self, team: &TeamId) -> Vec<Arc<SandboxSummary>> {
        self.all(self.teams.get(team))
    }

    pub(crate) fn everything(&self) -> Vec<Arc<SandboxSummary>> {
        self.sandboxes.values().cloned().collect()
    }

    pub(crate) fn of_template(&self, template: &TemplateId) -> Vec<Arc<SandboxSummary>> {
        self.all(self.templates.get(template))
    }

    fn all<'a>(&self, ids: impl Iterator<Item = &'a SandboxId>) -> Vec<Arc<SandboxSummary>> {
        ids.filter_map(|id| self.sandboxes.get(id).cloned())
            .collect()
    }

    /// Takes a word of the watch in. `changed` is shown every sandbox that it changes.
    pub(crate) fn take(&mut self, batch: SandboxBatch, mut changed: impl FnMut(&SandboxId)) {
        for summary in batch.changed {
            let id = summary.sandbox_id.clone();
            if self.put(summary) {
                changed(&id);
            }
        }
        for removal in batch.removed {
            if self.remove(&removal.sandbox_id, removal.sequence) {
                changed(&removal.sandbox_id);
            }
        }
        let position = self.position.max(batch.current.sequence);
        self.position = position;
        self.removed.retain(|_, sequence| *sequence > position);
    }

    /// Takes in how a sandbox is. Answers whether that was news.
    pub(crate) fn put(&mut self, summary: SandboxSummary) -> bool {
        let (id, sequence) = (summary.sandbox_id.clone(), summary.revision.sequence);
        let gone = self.removed.get(&id);
        if gone.is_some_and(|gone| *gone >= sequence) {
            return false;
        }
        match self.sandboxes.get(&id) {
            Some(known) if known.revision.sequence >= sequence => return false,
            Some(known) => {
                let known = Arc::clone(known);
                self.forget_indices(&known);
            }
            // What the watch has come past is not there: it went.
            None if sequence <= self.position => return false,
            None => {}
        }
        self.removed.remove(&id);
        self.teams.insert(summary.team_id, &id);
        self.templates.insert(summary.template_id.clone(), &id);
        self.sandboxes.insert(id, Arc::new(summary));
        true
    }

    /// Takes in that a sandbox went. Answers whether that was news.
    pub(crate) fn remove(&mut self, id: &SandboxId, sequence: u64) -> bool {
        let known = self.sandboxes.get(id);
        if known.is_some_and(|known| known.revision.sequence > sequence) {
            return false;
        }
        if sequence > self.position {
            let gone = self.removed.entry(id.clone()).or_default();
            *gone = sequence.max(*gone);
        }
        match self.sandboxes.remove(id) {
            Some(known) => {
                self.forget_indices(&known);
                true
            }
            None => false,
        }
    }

    fn forget_indices(&mut self, summary: &SandboxSummary) {
        self.teams.remove(&summary.team_id, &summary.sandbox_id);
        self.templates
            .remove(&summary.template_id, &summary.sandbox_id);
    }

    #[cfg(test)]
    pub(crate) fn ids(&self) -> BTreeSet<SandboxId> {
        self.sandboxes.keys().cloned().collect()
    }

    #[cfg(test)]
    pub(crate) fn remembered_removals(&self) -> usize {
        self.removed.len()
    }
}

/// Sandboxes by something that they have in common.
#[derive(Debug)]
struct Index<K>(HashMap<K, BTreeSet<SandboxId>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Index<K> {
    fn get(&self, key: &K) -> impl Iterator<Item = &SandboxId> {
        self.0.get(key).into_iter().flatten()
    }

    fn insert(&mut self, key: K, id: &SandboxId) {
        self.0.entry(key).or_default().insert(id.clone());
    }

    fn remove(&mut self, key: &K, id: &SandboxId) {
        if let Some(ids) = self.0.get_mut(key) {
            ids.remove(id);
            if ids.is_empty() {
                self.0.remove(key);
            }
        }
    }
}
