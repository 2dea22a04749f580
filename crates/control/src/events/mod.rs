//! Lifecycle events: taken from the node, kept in the store, read by their teams.
//!
//! ```text
//!  node's outbox ──take──▶ store: event, deliveries (one transaction) ──▶ acknowledge
//!                                      └──▶ the deliverer is woken
//! ```
//!
//! A process that dies between the store and the acknowledgement is told again, and the
//! store knows the event by its id.

mod told;
pub mod types;

pub use told::{NodeEvent, NodeEventKind, NodeEvents};

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::metering;
use crate::node::NodeError;
use chrono::Utc;
use hearth_ids::SandboxId;
use hearth_store::{Event, EventQuery};
use std::sync::Arc;
use std::time::Duration;

/// How long the node may let a question wait for an event.
const WAIT: Duration = Duration::from_secs(25);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Rounds of deleting old events, at once.
const PRUNE_ROUNDS: usize = 20;

/// Which of a team's events are asked for.
#[derive(Debug, Clone)]
pub struct EventsRequest {
    /// Of this sandbox only.
    pub sandbox_id: Option<SandboxId>,
    /// Of these types only; of all where there is none.
    pub types: Vec<String>,
    /// The oldest first; else the newest.
    pub ascending: bool,
    pub offset: u32,
    pub limit: u32,
}

impl Control {
    /// Takes the node's events into the store from here on, until [`Self::shutdown`].
    pub fn follow_events(self: &Arc<Self>) {
        let control = Arc::clone(self);
        let stop = self.followers_stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = control.events_take() => {}
            }
        });
    }

    async fn events_take(&self) {
        let mut retry = FIRST_RETRY;
        let mut acknowledged = Vec::new();
        loop {
            match self.events_take_once(&acknowledged).await {
                Ok(numbers) => {
                    acknowledged = numbers;
                    retry = FIRST_RETRY;
                    continue;
                }
                Err(NotTaken::Never) => return,
                Err(NotTaken::Now(error)) => {
                    tracing::warn!(%error, "take events of the node failed");
                }
            }
            // What was acknowledged may have been heard or not: it is told again then.
            acknowledged.clear();
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Takes what the node has to tell; answers what is to be acknowledged.
    async fn events_take_once(&self, acknowledged: &[u64]) -> Result<Vec<u64>, NotTaken> {
        let told = match self.node.events(acknowledged, WAIT).await {
            Ok(told) => told,
            Err(NodeError::Unimplemented(_)) => return Err(NotTaken::Never),
            Err(error) => return Err(NotTaken::Now(Error::from_node(error))),
        };
        let now = Utc::now();
        // What ran counts, however old the news of it is.
        let executions: Vec<_> = told.events.iter().filter_map(metering::execution).collect();
        if !executions.is_empty() {
            let noted = self.store.execution_record(&executions).await;
            noted.map_err(|error| NotTaken::Now(error.into()))?;
        }
        let oldest = now - self.config.events.retention;
        let events: Vec<Event> = told
            .events
            .into_iter()
            .map(NodeEvent::event)
            .filter(|event| event.occurred_at >= oldest)
            .collect();
        if !events.is_empty() {
            let kept = self.store.event_insert(&events, now).await;
            let new = kept.map_err(|error| NotTaken::Now(error.into()))?;
            if new > 0 {
                self.deliver.notify_one();
            }
        }
        Ok(told.numbers)
    }

    /// A team's events, in the order of their times.
    ///
    /// Errors: `Invalid`; `NotFound`, a sandbox of which there is none.
    pub async fn event_list(
        &self,
        caller: &Caller,
        request: EventsRequest,
    ) -> Result<Vec<Event>, Error> {
        for event_type in &request.types {
            types::check("types", event_type)?;
        }
        let query = EventQuery {
            team_id: caller.team_id(),
            sandbox_id: request.sandbox_id,
            types: request.types,
            ascending: request.ascending,
            offset: request.offset,
            limit: request.limit,
        };
        let found = self.store.event_list(&query).await.map_err(event_error)?;
        if found.is_empty() && query.sandbox_id.is_some() {
            let any = EventQuery {
                types: Vec::new(),
                offset: 0,
                limit: 1,
                ..query
            };
            if self
                .store
                .event_list(&any)
                .await
                .map_err(event_error)?
                .is_empty()
            {
                return Err(Error::not_found("Sandbox events not found"));
            }
        }
        Ok(found)
    }

    /// Deletes events that are older than they are kept.
    pub(crate) async fn events_prune(&self) -> Result<(), Error> {
        let config = &self.config.events;
        for _ in 0..PRUNE_ROUNDS {
            let before = Utc::now() - config.retention;
            let gone = self.store.event_prune(before, config.most_of_team).await?;
            if gone == 0 {
                break;
            }
        }
        Ok(())
    }
}

enum NotTaken {
    /// The node tells of no events.
    Never,
    Now(Error),
}

/// A failure of the store as the contract's routes of events word it.
fn event_error(error: hearth_store::Error) -> Error {
    reworded(
        error,
        "Sandbox events are not available",
        "Error when querying sandbox events",
    )
}

/// A failure of the store in the words of a contract: `away` for what passes.
pub(crate) fn reworded(error: hearth_store::Error, away: &str, failed: &str) -> Error {
    let mut error = Error::from(error);
    match error.kind {
        Kind::Unavailable => error.message = away.to_owned(),
        Kind::Internal => error.message = failed.to_owned(),
        _ => {}
    }
    error
}
