//! Watching this node's sandboxes: all there are, then every change.
//!
//! ```text
//!            ┌────────────── a gap ─────────────┐
//!            ▼                                  │
//!   begin ─▶ resetting ──nothing left──▶ following ──▶ (node goes down) end
//!     └────────────── a place that is known ───▲
//! ```
//!
//! A watcher is a place in the registry's order of changes, and nothing else: while
//! its reader is slow, changes of one sandbox take each other's place, and only when
//! so many sandboxes went that the registry has forgotten some does it begin anew.

use crate::{
    listing,
    node::Node,
    registry::{Changes, Registry},
    spec::Status,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

/// Watchers at the same time; one control plane needs one.
pub(crate) const MAX_WATCHERS: usize = 32;
/// A reader hears something at least this often, and else knows that nobody is there.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A place among the changes of one run of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Revision {
    pub instance: u64,
    pub sequence: u64,
}

/// Something to tell a reader.
#[derive(Debug)]
pub(crate) struct News {
    /// What the reader knew counts no more.
    pub reset: bool,
    pub changes: Changes,
    pub instance: u64,
}

/// What watchers read from.
pub(crate) trait Source: Send + Sync + 'static {
    fn registry(&self) -> &Registry;
}

impl Source for Node {
    fn registry(&self) -> &Registry {
        self.registry()
    }
}

pub(crate) struct Watcher<S> {
    source: Arc<S>,
    /// Everything up to here has been told.
    told: u64,
    /// Nothing has been told since a reset.
    reset: bool,
    /// All that there was has been told once.
    idle: bool,
    news: watch::Receiver<u64>,
    end: CancellationToken,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S: Source> Watcher<S> {
    /// A watcher that goes on after a place, where that is one of this node's; it
    /// ends with `end`.
    pub(crate) fn new(
        source: Arc<S>,
        after: Option<Revision>,
        end: CancellationToken,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let registry = source.registry();
        let told = after
            .filter(|after| after.instance == registry.instance())
            .map_or(0, |after| after.sequence);
        Self {
            told,
            reset: told == 0,
            idle: false,
            news: registry.news(),
            end,
            _permit: permit,
            source,
        }
    }

    /// What is new, as soon as something is; nothing new after [`HEARTBEAT`]. `None`
    /// at the end.
    pub(crate) async fn next(&mut self) -> Option<News> {
        if self.idle {
            tokio::select! {
                biased;
                () = self.end.cancelled() => return None,
                changed = self.news.changed() => changed.ok()?,
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
        if self.end.is_cancelled() {
            return None;
        }
        self.news.mark_unchanged();
        Some(self.read())
    }

    fn read(&mut self) -> News {
        let registry = self.source.registry();
        let changes = match registry.changes(self.told, listing::PAGE_BYTES, size) {
            Some(changes) => changes,
            None => {
                (self.told, self.reset) = (0, true);
                // Everything there is can always be told.
                let all = registry.changes(0, listing::PAGE_BYTES, size);
                all.unwrap_or_default()
            }
        };
        self.told = changes.sequence;
        self.idle = changes.complete;
        News {
            reset: std::mem::take(&mut self.reset),
            instance: registry.instance(),
            changes,
        }
    }
}

fn size(status: &Status) -> usize {
    listing::summary_bytes(&status.spec, true)
}

#[cfg(test)]
mod tests;
