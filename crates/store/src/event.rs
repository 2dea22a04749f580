//! Lifecycle events: what happened to sandboxes, builds and webhooks.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use uuid::Uuid;

/// Something that happened. Never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same whenever the event is told again.
    pub id: Uuid,
    /// Whose it is.
    pub team_id: TeamId,
    /// For example `sandbox.lifecycle.created`; letters, digits, dots and underscores.
    pub event_type: String,
    /// For example `lifecycle`.
    pub category: Option<String>,
    /// For example `create`.
    pub label: Option<String>,
    /// A JSON object.
    pub data: Option<String>,
    /// Rises from event to event of a sandbox.
    pub occurred_at: DateTime<Utc>,
    /// The sandbox, where it is about one.
    pub sandbox_id: Option<SandboxId>,
    /// The sandbox's execution.
    pub execution_id: Option<ExecutionId>,
    /// The template of the sandbox or the build.
    pub template_id: Option<TemplateId>,
    /// The build that the sandbox was made from, or that it is about.
    pub build_id: Option<BuildId>,
}

/// Which events are asked for, of one team.
#[derive(Debug, Clone)]
pub struct EventQuery {
    /// Of this team.
    pub team_id: TeamId,
    /// Of this sandbox only.
    pub sandbox_id: Option<SandboxId>,
    /// Of these types only; of all where there is none.
    pub types: Vec<String>,
    /// The oldest first; else the newest.
    pub ascending: bool,
    /// So many are passed over.
    pub offset: u32,
    /// So many at most.
    pub limit: u32,
}

/// The part of the store that keeps events.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Keeps events, with a delivery to each enabled webhook of the team that wants the
    /// type. Those that are there already, and those of teams that are gone, are passed
    /// over. Answers how many were new.
    async fn event_insert(&self, events: &[Event], now: DateTime<Utc>) -> Result<u64>;
    /// The events that match, in the order of their times.
    async fn event_list(&self, query: &EventQuery) -> Result<Vec<Event>>;
    /// Deletes events from before a time, and the oldest ones of teams that have more than
    /// `most_of_team`; deliveries go with them. A bounded number at once: answers how many
    /// went, and is to be asked again until that is none.
    async fn event_prune(&self, before: DateTime<Utc>, most_of_team: u32) -> Result<u64>;
}
