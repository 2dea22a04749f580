//! Webhooks and their deliveries. A signature secret comes in and never goes out.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewWebhook {
    pub name: String,
    /// http or https.
    pub url: String,
    /// Types of events; at least one.
    pub events: Vec<String>,
    /// Signs the deliveries. Best 32 characters or more, made at random.
    pub signature_secret: String,
    /// True unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// What is left out stays.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateWebhook {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub url: Option<String>,
    #[serde(default)]
    pub events: Option<Vec<String>>,
    #[serde(default)]
    pub signature_secret: Option<String>,
    #[serde(default)]
    pub enabled: Option<bool>,
}

// Not derived: a secret is in no log.
impl fmt::Debug for NewWebhook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("NewWebhook");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for UpdateWebhook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("UpdateWebhook");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    pub id: String,
    pub name: String,
    #[serde(serialize_with = "crate::time::serialize")]
    pub created_at: DateTime<Utc>,
    pub team_id: String,
    pub url: String,
    pub enabled: bool,
    pub events: Vec<String>,
    /// Why it was disabled, where nobody asked for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    Pending,
    Success,
    Failed,
}

/// One try to deliver an event.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryAttempt {
    /// The receiver hears it as `e2b-delivery-id`.
    pub id: String,
    pub team_id: String,
    pub webhook_id: String,
    pub event_id: String,
    pub sandbox_id: String,
    pub event_type: String,
    pub status: DeliveryStatus,
    pub duration_ms: u32,
    pub request_url: String,
    pub request_body: String,
    /// A JSON object, without signatures.
    pub request_headers: String,
    /// Its first 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_body: Option<String>,
    /// A JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_http_status_code: Option<u16>,
    /// `http_error`, `dns_error`, `timeout`, `transport_error`, `request_error`,
    /// `signature_error` or `canceled`.
    pub error_class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub timestamp: DateTime<Utc>,
}

/// An event on its way to a webhook.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookDelivery {
    pub event_id: String,
    pub event_type: String,
    pub sandbox_id: String,
    /// Pending: it is still to be tried, or tried again.
    pub status: DeliveryStatus,
    /// Oldest first.
    pub attempts: Vec<DeliveryAttempt>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookDeliveries {
    pub data: Vec<WebhookDelivery>,
    /// For the next page, where there is one.
    pub next_cursor: Option<String>,
}

/// Milliseconds of attempts; zero where there was none.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct DurationStats {
    pub minimum: u64,
    pub average: f64,
    pub maximum: u64,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryBucket {
    /// Begin of the part.
    #[serde(serialize_with = "crate::time::serialize")]
    pub timestamp: DateTime<Utc>,
    pub total: u64,
    pub failed: u64,
    pub duration_ms: DurationStats,
}

/// Attempts in a span of time. Parts without any are left out.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookStats {
    pub buckets: Vec<DeliveryBucket>,
    pub total: u64,
    pub failed: u64,
    pub duration_ms: DurationStats,
}
