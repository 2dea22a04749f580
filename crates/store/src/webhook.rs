//! Webhooks: where a team wants its events sent.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use uuid::Uuid;

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Names it.
    pub id: Uuid,
    /// Whose it is.
    pub team_id: TeamId,
    /// For people.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// The types that are sent; never empty.
    pub events: Vec<String>,
    /// What signs the deliveries, sealed: the store cannot read it.
    pub sealed_secret: String,
    /// Whether events are sent.
    pub enabled: bool,
    /// Why it was disabled, where its owner did not do that.
    pub disabled_reason: Option<String>,
    /// The first of the failures since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A webhook to be kept.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Names it.
    pub id: Uuid,
    /// Whose it is.
    pub team_id: TeamId,
    /// For people.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// The types that are sent.
    pub events: Vec<String>,
    /// What signs the deliveries, sealed.
    pub sealed_secret: String,
    /// Whether events are sent.
    pub enabled: bool,
    /// Now.
    pub created_at: DateTime<Utc>,
}

/// What is to be changed of a webhook; the rest stays.
#[derive(Debug, Clone, Default)]
pub struct WebhookChange {
    /// For people.
    pub name: Option<String>,
    /// Where events are sent.
    pub url: Option<String>,
    /// The types that are sent.
    pub events: Option<Vec<String>>,
    /// What signs the deliveries, sealed.
    pub sealed_secret: Option<String>,
    /// Whether events are sent. Disabling ends the deliveries that wait.
    pub enabled: Option<bool>,
}

/// The part of the store that keeps webhooks.
#[async_trait]
pub trait WebhookStore: Send + Sync {
    /// Keeps a webhook unless its team has `most` already: `None` then, and where there is
    /// no such team.
    async fn webhook_create(&self, new: NewWebhook, most: u32) -> Result<Option<Webhook>>;
    /// A team's webhooks, oldest first.
    async fn webhook_list(&self, team: TeamId) -> Result<Vec<Webhook>>;
    /// A webhook of the team.
    async fn webhook(&self, team: TeamId, id: Uuid) -> Result<Option<Webhook>>;
    /// Changes a webhook of the team; answers how it is then. Enabling forgets what failed
    /// before.
    async fn webhook_update(
        &self,
        team: TeamId,
        id: Uuid,
        change: WebhookChange,
    ) -> Result<Option<Webhook>>;
    /// Deletes a webhook of the team with its deliveries. Answers whether there was one.
    async fn webhook_delete(&self, team: TeamId, id: Uuid) -> Result<bool>;
}
