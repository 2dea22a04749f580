//! Events of the team's sandboxes, and the webhooks that they are sent to.

use crate::Result;
use crate::control::ControlClient;
use bytes::Bytes;
use connectrpc::client::full_body;
use hearth_ids::SandboxId;
use hearth_wire::{NewWebhook, SandboxEvent, Webhook, WebhookDeliveries, WebhookDelivery};
use http::Method;

impl ControlClient {
    /// The newest events, of one sandbox or all, the newest first: at most 100.
    pub async fn event_list(
        &self,
        sandbox: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<SandboxEvent>> {
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
    pub async fn webhook_deliveries(&self, id: &str, limit: u32) -> Result<Vec<WebhookDelivery>> {
        let path = format!("/events/webhooks/{id}/deliveries?limit={limit}");
        let found: WebhookDeliveries = self.get(&path).await?;
        Ok(found.data)
    }

    /// Has an event delivered once more.
    pub async fn webhook_redeliver(&self, id: &str, event: &str) -> Result<()> {
        let path = format!("/events/webhooks/{id}/deliveries/{event}/redeliver");
        let request = self.request(Method::POST, &path, full_body(Bytes::new()))?;
        self.call(request).await.map(drop)
    }
}
