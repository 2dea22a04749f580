//! The node and what is known of its sandboxes.
//!
//! ```text
//!            begin                     all told
//!   (down) ────────▶ taking a snapshot ────────▶ live ──┐
//!      ▲                    │                     │  ▲  │ changes
//!      └──── the watch ends, or another instance ─┘  └──┘
//!            of the node answers
//! ```
//!
//! While the watch is live, look-ups, lists and counts read the table in memory, and
//! who waits for a sandbox is woken by its next change. The table is as old as a
//! message takes to come; a watch that falls silent is ended by its adapter. What this
//! process itself has done is in the table before its caller hears of it, for each
//! answer of the node carries the number of its change. While the watch is down, every
//! look-up asks the node, and who waits looks again with a growing pause.
//!
//! The node stays the truth: what is carried out on the strength of the table, it
//! refuses where the sandbox has moved meanwhile, and the request looks again.

mod follow;
mod table;
#[cfg(test)]
mod tests;
mod whole;

use crate::events::NodeEvents;
use crate::node::{
    Node, NodeBuild, NodeError, NodeInfo, NodeSandbox, Revision, SandboxConfig, SandboxQuery,
    SandboxSummary, SandboxUpdate,
};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use table::Table;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How often those who wait look again while the watch is down.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// A node, with what is known of its sandboxes.
pub(crate) struct Fleet {
    node: Arc<dyn Node>,
    known: Mutex<Known>,
    /// The node that answers is not the one that is watched.
    estranged: Notify,
}

#[derive(Default)]
struct Known {
    table: Table,
    /// What a snapshot has told so far.
    staged: Option<Table>,
    /// The table holds what the node holds.
    live: bool,
    /// Those who wait for the next change of a sandbox.
    waiting: HashMap<SandboxId, Arc<Notify>>,
}

/// The rhythm of looking again where nobody tells of changes.
#[derive(Debug)]
pub(crate) struct Looks(Duration);

impl Default for Looks {
    fn default() -> Self {
        Self(FIRST_LOOK)
    }
}

impl Looks {
    fn next(&mut self) -> Duration {
        let look = self.0;
        self.0 = (look * 2).min(LAST_LOOK);
        look
    }
}

impl Fleet {
    pub(crate) fn new(node: Arc<dyn Node>) -> Self {
        Self {
            node,
            known: Mutex::default(),
            estranged: Notify::new(),
        }
    }

    /// The sandbox of this id, in any state.
    pub(crate) async fn lookup(
        &self,
        id: &SandboxId,
    ) -> Result<Option<Arc<SandboxSummary>>, NodeError> {
        {
            let known = self.lock();
            if known.live {
                return Ok(known.table.get(id).cloned());
            }
        }
        let found = self.node.get(id).await?;
        Ok(found.map(|sandbox| Arc::new(sandbox.summary())))
    }

    /// The sandboxes of a team, in any state.
    pub(crate) async fn of_team(
        &self,
        team: TeamId,
    ) -> Result<Vec<Arc<SandboxSummary>>, NodeError> {
        self.all(
            |table| table.of_team(&team),
            || SandboxQuery {
                team: Some(team),
                with_metadata: true,
                ..SandboxQuery::default()
            },
        )
        .await
    }

    /// The running sandboxes of a team, and those on their way; without metadata where
    /// it is not known anyway.
    pub(crate) async fn active_of_team(
        &self,
        team: TeamId,
    ) -> Result<Vec<Arc<SandboxSummary>>, NodeError> {
        self.all(
            |table| table.of_team(&team),
            || SandboxQuery {
                team: Some(team),
                skip_paused: true,
                ..SandboxQuery::default()
            },
        )
        .await
    }

    /// The sandboxes made from a template, of whichever team.
    pub(crate) async fn of_template(
        &self,
        template: &TemplateId,
    ) -> Result<Vec<Arc<SandboxSummary>>, NodeError> {
        self.all(
            |table| table.of_template(template),
            || SandboxQuery {
                template: Some(template),
                ..SandboxQuery::default()
            },
        )
        .await
    }

    async fn all<'a>(
        &self,
        known: impl FnOnce(&Table) -> Vec<Arc<SandboxSummary>>,
        query: impl FnOnce() -> SandboxQuery<'a>,
    ) -> Result<Vec<Arc<SandboxSummary>>, NodeError> {
        {
            let locked = self.lock();
            if locked.live {
                return Ok(known(&locked.table));
            }
        }
        let listed = self.node.list(query()).await?;
        Ok(listed.into_iter().map(Arc::new).collect())
    }

    /// Waits until a sandbox is not any more as it was `seen`; answers false when
    /// `deadline` comes first. While the watch is down it waits for the next look.
    pub(crate) async fn changed(
        &self,
        seen: &SandboxSummary,
        looks: &mut Looks,
        deadline: Instant,
    ) -> bool {
        let woken = match self.next_change(seen) {
            Some(Wait::Over) => return true,
            Some(Wait::For(woken)) => woken,
            None => {
                let look = Instant::now() + looks.next();
                tokio::time::sleep_until(look.min(deadline)).await;
                return look < deadline;
            }
        };
        let notified = woken.notified();
        tokio::pin!(notified);
        // Those who are woken are those who were there when it was looked at again.
        notified.as_mut().enable();
        match self.next_change(seen) {
            Some(Wait::For(now)) if Arc::ptr_eq(&now, &woken) => {}
            _ => return true,
        }
        timeout_at(deadline, notified).await.is_ok()
    }

    /// The same where the node has refused something on the strength of what was
    /// `seen`: news of why is on its way, and if none comes, the node may be asked
    /// again before long.
    pub(crate) async fn moved(
        &self,
        seen: &SandboxSummary,
        looks: &mut Looks,
        deadline: Instant,
    ) -> bool {
        let pace = looks.next();
        let look = Instant::now() + pace;
        if look >= deadline {
            return false;
        }
        let changed = self.changed(seen, &mut Looks(pace), look).await;
        let live = self.lock().live;
        if !changed
            && live
            && let Ok(Some(sandbox)) = self.node.get(&seen.sandbox_id).await
        {
            self.note(&sandbox);
        }
        true
    }

    /// How to wait for the next change; `None` while the watch is down.
    fn next_change(&self, seen: &SandboxSummary) -> Option<Wait> {
        let mut known = self.lock();
        if !known.live {
            return None;
        }
        let id = &seen.sandbox_id;
        match known.table.get(id) {
            Some(now) if now.revision == seen.revision => {
                let woken = known.waiting.entry(id.clone()).or_default();
                Some(Wait::For(Arc::clone(woken)))
            }
            _ => Some(Wait::Over),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // No code panics while it holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Wait {
    /// It has changed already.
    Over,
    For(Arc<Notify>),
}

/// The node's calls. Those that change a sandbox note how the node says it is now.
impl Fleet {
    pub(crate) async fn reserve(&self, build: BuildId) -> Result<Option<SandboxId>, NodeError> {
        self.node.reserve(build).await
    }

    pub(crate) async fn create(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
    ) -> Result<NodeSandbox, NodeError> {
        let made = self.node.create(config, end_at).await?;
        self.note(&made);
        Ok(made)
    }

    pub(crate) async fn create_fork(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
        of: &SandboxId,
    ) -> Result<NodeSandbox, NodeError> {
        let made = self.node.create_fork(config, end_at, of).await?;
        self.note(&made);
        Ok(made)
    }

    pub(crate) async fn events(
        &self,
        acknowledged: &[u64],
        wait: Duration,
    ) -> Result<NodeEvents, NodeError> {
        self.node.events(acknowledged, wait).await
    }

    pub(crate) async fn update(
        &self,
        id: &SandboxId,
        update: SandboxUpdate,
    ) -> Result<NodeSandbox, NodeError> {
        let changed = self.node.update(id, update).await?;
        self.note(&changed);
        Ok(changed)
    }

    /// The sandbox with all that it was made of.
    pub(crate) async fn get(&self, id: &SandboxId) -> Result<Option<NodeSandbox>, NodeError> {
        self.node.get(id).await
    }

    pub(crate) async fn delete(&self, id: &SandboxId) -> Result<(), NodeError> {
        let gone = self.node.delete(id).await?;
        self.note_removal(id, gone);
        Ok(())
    }

    pub(crate) async fn pause(
        &self,
        id: &SandboxId,
        build: BuildId,
        memory: bool,
    ) -> Result<(), NodeError> {
        let paused = self.node.pause(id, build, memory).await?;
        self.note_summary(paused);
        Ok(())
    }

    pub(crate) async fn resume(
        &self,
        id: &SandboxId,
        end_at: DateTime<Utc>,
        discard_memory: bool,
    ) -> Result<NodeSandbox, NodeError> {
        let resumed = self.node.resume(id, end_at, discard_memory).await?;
        self.note(&resumed);
        Ok(resumed)
    }

    pub(crate) async fn checkpoint(&self, id: &SandboxId, build: BuildId) -> Result<(), NodeError> {
        let kept = self.node.checkpoint(id, build).await?;
        self.note_summary(kept);
        Ok(())
    }

    pub(crate) async fn checkpoint_for_forks(
        &self,
        id: &SandboxId,
        build: BuildId,
    ) -> Result<(), NodeError> {
        let kept = self.node.checkpoint_for_forks(id, build).await?;
        self.note_summary(kept);
        Ok(())
    }

    pub(crate) async fn rollback(
        &self,
        id: &SandboxId,
        build: BuildId,
    ) -> Result<NodeSandbox, NodeError> {
        let back = self.node.rollback(id, build).await?;
        self.note(&back);
        Ok(back)
    }

    pub(crate) async fn build_delete(&self, build: BuildId) -> Result<(), NodeError> {
        self.node.build_delete(build).await
    }

    pub(crate) async fn build_list(&self) -> Result<Vec<NodeBuild>, NodeError> {
        self.node.build_list().await
    }

    pub(crate) async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.node.info().await
    }

    pub(crate) fn templates(&self) -> Option<&dyn crate::TemplateNode> {
        self.node.templates()
    }

    fn note(&self, sandbox: &NodeSandbox) {
        self.note_summary(sandbox.summary());
    }

    fn note_summary(&self, summary: SandboxSummary) {
        let id = summary.sandbox_id.clone();
        let revision = summary.revision;
        self.note_change(&id, revision, |table| table.put(summary.clone()));
    }

    fn note_removal(&self, id: &SandboxId, revision: Revision) {
        self.note_change(id, revision, |table| table.remove(id, revision.sequence));
    }

    /// Makes a change that the node told in an answer.
    fn note_change(
        &self,
        id: &SandboxId,
        revision: Revision,
        mut change: impl FnMut(&mut Table) -> bool,
    ) {
        let mut known = self.lock();
        if let Some(staged) = &mut known.staged
            && staged.instance() == revision.instance
        {
            change(staged);
        }
        if known.table.instance() == revision.instance {
            if change(&mut known.table) {
                known.wake(id);
            }
        } else if known.live {
            // The node was started anew, which its watch has not noticed yet.
            known.down();
            self.estranged.notify_one();
        }
    }
}

impl Known {
    fn wake(&mut self, id: &SandboxId) {
        if let Some(woken) = self.waiting.remove(id) {
            woken.notify_waiters();
        }
    }

    /// From here on the table is not to be trusted.
    fn down(&mut self) {
        (self.live, self.staged) = (false, None);
        for (_, woken) in self.waiting.drain() {
            woken.notify_waiters();
        }
    }
}
