//! What sandboxes' programs log at the node's service for events. It comes from
//! guests by another way than their agents' streams, and is kept beside these,
//! within a bound of its own.

use crate::Store;
use hearth_control::LogEntry;
use hearth_ids::{SandboxId, TeamId};
use tokio::sync::mpsc;

/// Entries that wait for the disk; more are lost.
const QUEUE: usize = 1024;

/// One entry and whose it is.
#[derive(Debug)]
pub struct Event {
    /// The sandbox that it is about.
    pub sandbox_id: SandboxId,
    /// The team that owns the sandbox.
    pub team_id: TeamId,
    /// What happened.
    pub entry: LogEntry,
}

/// Takes entries without ever blocking. The task behind it ends with the last clone.
#[derive(Debug, Clone)]
pub struct EventLog {
    queue: mpsc::Sender<Event>,
}

impl EventLog {
    /// Must be called in a runtime.
    #[must_use]
    pub fn start(store: Store) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Event>(QUEUE);
        tokio::spawn(async move {
            let mut events = Vec::new();
            while waiting.recv_many(&mut events, QUEUE).await > 0 {
                let (events, store) = (std::mem::take(&mut events), store.clone());
                let adding = tokio::task::spawn_blocking(move || keep(&store, events));
                if let Err(error) = adding.await {
                    tracing::error!(%error, "store events failed");
                }
            }
        });
        Self { queue }
    }

    /// Keeps an entry, unless too many wait.
    pub fn add(&self, event: Event) {
        if let Err(error) = self.queue.try_send(event) {
            tracing::debug!(%error, "store event failed");
        }
    }
}

fn keep(store: &Store, events: Vec<Event>) {
    for event in events {
        let entries = [event.entry];
        let added = store.add_events(&event.sandbox_id, event.team_id, &entries);
        if let Err(error) = added {
            tracing::debug!(sandbox = %event.sandbox_id, %error, "store event failed");
        }
    }
}
