//! Events of the team's sandboxes, and the webhooks that they are sent to.

use crate::Result;
use crate::control::ControlClient;
use bytes::Bytes;
use connectrpc::client::full_body;
use hearth_ids::SandboxId;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Something that happened to a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its own, whenever it is told.
    pub id: String,
    /// For example `sandbox.lifecycle.created`.
    pub r#type: String,
    /// An object that depends on the type.
    #[serde(default)]
    pub event_data: Option<Value>,
    /// RFC 3339.
    pub timestamp: String,
    /// Empty where it is about none.
    pub sandbox_id: String,
    /// What else the API says of it.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// Where events are sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Names it in requests.
    pub id: String,
    /// For people.
    pub name: String,
    /// Where to.
    pub url: String,
    /// Whether something is sent.
    pub enabled: bool,
    /// Types of events.
    pub events: Vec<String>,
    /// Why it was disabled, where nobody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// What else the API says of it.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// A webhook to be made.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewWebhook {
    /// For people.
    pub name: String,
    /// http or https.
    pub url: String,
    /// Types of events; at least one.
    pub events: Vec<String>,
    /// Signs the deliveries.
    pub signature_secret: String,
}

// Not derived: a secret is in no log.
impl fmt::Debug for NewWebhook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("NewWebhook");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

/// An event on its way to a webhook.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The event.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// `pending`, `success` or `failed`.
    pub status: String,
    /// Each try, as the API tells it.
    pub attempts: Vec<Value>,
    /// What else the API says of it.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
struct Deliveries {
    data: Vec<Delivery>,
}

impl ControlClient {
    /// The newest events, of one sandbox or all, the newest first: at most 100.
    pub async fn event_list(&self, sandbox: Option<&SandboxId>, limit: u32) -> Result<Vec<Event>> {
        let of = sandbox.map_or_else(String::new, |id| format!("/{id}"));
        let path = format!("/events/sandboxes{of}?limit={limit}");
        self.get(&path).await
    }

    /// The team's webhooks.
    pub async fn webhook_list(&self) -> Result<Vec<Webhook>> {
        self.get("/events/webhooks").await
    }

    /// Makes a webhook.
    pub async fn webhook_create(&self, new: &NewWebhook) -> Result<Webhook> {
        self.exchange(Method::POST, "/events/webhooks", new).await
    }

    /// Deletes a webhook. False when there was none.
    pub async fn webhook_delete(&self, id: &str) -> Result<bool> {
        let path = format!("/events/webhooks/{id}");
        let request = self.request(Method::DELETE, &path, full_body(Bytes::new()))?;
        match self.call(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The newest deliveries of a webhook: at most 100.
    pub async fn webhook_deliveries(&self, id: &str, limit: u32) -> Result<Vec<Delivery>> {
        let path = format!("/events/webhooks/{id}/deliveries?limit={limit}");
        let found: Deliveries = self.get(&path).await?;
        Ok(found.data)
    }

    /// Has an event delivered once more.
    pub async fn webhook_redeliver(&self, id: &str, event: &str) -> Result<()> {
        let path = format!("/events/webhooks/{id}/deliveries/{event}/redeliver");
        let request = self.request(Method::POST, &path, full_body(Bytes::new()))?;
        self.call(request).await.map(drop)
    }
}
