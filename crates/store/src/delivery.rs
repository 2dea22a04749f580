//! Deliveries: an event on its way to a webhook.
//!
//! ```text
//!  event_insert ──▶ pending ──2xx──▶ success ◀─┐
//!                    │  ▲ ▲                    │
//!             failed │  │ └──── redeliver ─────┤
//!             (later)└──┘                      │
//!                    └──no attempt left──▶ failed
//! ```
//!
//! Of the deliveries of one sandbox to one webhook only the earliest that is pending can
//! be due, so that events arrive in their order.

use crate::{Event, Result, Webhook};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use std::ops::Range;
use uuid::Uuid;

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is to be tried, for the first time or again.
    Pending,
    /// The receiver took it.
    Success,
    /// Nobody tries it any more.
    Failed,
}

/// A delivery that is to be tried now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDelivery {
    /// What is to be sent.
    pub event: Event,
    /// Attempts that failed so far, since it was begun or asked for again.
    pub attempts: u32,
}

/// One try to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Names it; the receiver hears it too.
    pub id: Uuid,
    /// To which webhook.
    pub webhook_id: Uuid,
    /// Of which event.
    pub event_id: Uuid,
    /// Whether the receiver took it.
    pub success: bool,
    /// How long it took.
    pub duration_ms: u32,
    /// Where it was sent.
    pub request_url: String,
    /// What was sent.
    pub request_body: String,
    /// A JSON object.
    pub request_headers: String,
    /// The beginning of the answer.
    pub response_body: Option<String>,
    /// A JSON object.
    pub response_headers: Option<String>,
    /// The answer's status.
    pub response_status: Option<u16>,
    /// A word of the contract's.
    pub error_class: Option<String>,
    /// A sentence.
    pub error_message: Option<String>,
    /// When it began.
    pub at: DateTime<Utc>,
}

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has arrived.
    Success,
    /// It failed and is to be tried again then.
    Again(DateTime<Utc>),
    /// It failed for good. Where every attempt at the webhook has failed since a time
    /// before `failing_before`, the webhook is disabled, which the event tells.
    GiveUp {
        /// Latest begin of a lasting failure.
        failing_before: DateTime<Utc>,
        /// Told where the webhook is disabled.
        disabled: Box<Event>,
        /// Why it is disabled then.
        reason: String,
    },
}

/// A delivery as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event_id: Uuid,
    /// Its type.
    pub event_type: String,
    /// The sandbox that it is about; empty for none.
    pub sandbox_id: String,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// Where the delivery is.
    pub state: DeliveryState,
    /// Its attempts, oldest first; the newest of many.
    pub attempts: Vec<Attempt>,
}

/// A place in a list of deliveries: after this event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPlace {
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// Its id.
    pub event_id: Uuid,
}

/// Which deliveries are asked for, of one webhook.
#[derive(Debug, Clone)]
pub struct DeliveryQuery {
    /// Of this webhook.
    pub webhook_id: Uuid,
    /// After this place.
    pub after: Option<DeliveryPlace>,
    /// Of events from this time on.
    pub start: Option<DateTime<Utc>>,
    /// Of events before this time.
    pub end: Option<DateTime<Utc>>,
    /// Those that arrived, or those whose last attempt failed.
    pub success: Option<bool>,
    /// Of these types only; of all where there is none.
    pub types: Vec<String>,
    /// The oldest first; else the newest.
    pub ascending: bool,
    /// So many at most.
    pub limit: u32,
}

/// A page of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    /// At most as many as were asked for.
    pub deliveries: Vec<Delivery>,
    /// Whether others follow.
    pub more: bool,
}

/// Attempts in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttemptStats {
    /// Begin of the span that is counted.
    pub from: DateTime<Utc>,
    /// All.
    pub total: u64,
    /// Those that failed.
    pub failed: u64,
    /// The shortest.
    pub minimum_ms: u64,
    /// The longest.
    pub maximum_ms: u64,
    /// All together.
    pub sum_ms: u64,
}

/// What became of a wish to deliver again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redelivery {
    /// It will be.
    Begun,
    /// The webhook or the event is not there, or the event is none of its types.
    NotFound,
    /// The webhook is disabled.
    Disabled,
}

/// The part of the store that keeps deliveries.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// The enabled webhooks that a delivery is due to, with the secrets sealed.
    async fn delivery_webhooks_due(&self, now: DateTime<Utc>) -> Result<Vec<Webhook>>;
    /// Deliveries to the webhook that are due, of each sandbox the earliest one; those that
    /// are due the longest first.
    async fn delivery_due(
        &self,
        webhook: Uuid,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<DueDelivery>>;
    /// When the next delivery is due that is not due now.
    async fn delivery_next(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>>;
    /// Notes an attempt and what follows. Nothing where the delivery is gone. Answers
    /// whether the webhook was disabled by it.
    async fn delivery_attempted(
        &self,
        attempt: &Attempt,
        verdict: &Verdict,
        now: DateTime<Utc>,
    ) -> Result<bool>;
    /// Deliveries with their attempts, by the times of the events: of each the newest 30, and
    /// of all about 8 MiB. A page that would hold more ends sooner, but not before the first
    /// delivery.
    async fn delivery_list(&self, query: &DeliveryQuery) -> Result<DeliveryPage>;
    /// The attempts at a webhook in a span of time, for each part of `bucket_ms` in which
    /// there was one.
    async fn delivery_stats(
        &self,
        webhook: Uuid,
        span: Range<DateTime<Utc>>,
        bucket_ms: u32,
    ) -> Result<Vec<AttemptStats>>;
    /// Begins to deliver an event to a webhook of the team, whatever became of it before.
    async fn delivery_redeliver(
        &self,
        team: TeamId,
        webhook: Uuid,
        event: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Redelivery>;
}
