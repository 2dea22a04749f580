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
    registry::{Changes, Registry},
    spec::Status,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Watchers at the same time; one control plane needs one.
const MAX_WATCHERS: usize = 32;
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

pub(crate) struct Watcher<S> {
    source: Arc<S>,
    /// Everything up to here has been told.
    told: u64,
    /// The last change when telling began, or began anew.
    begun: u64,
    /// Nothing has been told since a reset.
    reset: bool,
    /// All that there was has been told once.
    idle: bool,
    news: watch::Receiver<u64>,
    end: CancellationToken,
}

impl<S: Source> Watcher<S> {
    /// A watcher that goes on after a place, where that is one of this node's; it
    /// ends with `end`. `None` where [`MAX_WATCHERS`] watch already.
    pub(crate) fn new(
        source: Arc<S>,
        after: Option<Revision>,
        end: CancellationToken,
    ) -> Option<Self> {
        let registry = source.registry();
        let (news, watchers) = registry.news();
        if watchers > MAX_WATCHERS {
            return None;
        }
        let told = after
            .filter(|after| after.instance == registry.instance())
            .map_or(0, |after| after.sequence);
        Some(Self {
            told,
            begun: if told == 0 { registry.last() } else { told },
            reset: told == 0,
            idle: false,
            news,
            end,
            source,
        })
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
        let most = listing::PAGE_BYTES;
        let changes = match registry.changes(self.told, self.begun, most, size) {
            Some(changes) => changes,
            None => {
                (self.told, self.begun, self.reset) = (0, registry.last(), true);
                // What is missed here, if thousands go in this moment, is begun anew.
                let all = registry.changes(0, self.begun, most, size);
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
