//! Webhooks of a team: what may be kept, and what became of deliveries. Sending is
//! [`hearth_webhooks`]'s matter.

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::events::{reworded, types};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use hearth_store::{
    AttemptStats, Delivery, DeliveryPage, DeliveryPlace, DeliveryQuery, LeaseName, NewWebhook,
    Redelivery, Webhook, WebhookChange,
};
use hearth_webhooks::{Deliverer, Sealer};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use uuid::Uuid;

const MAX_NAME_CHARACTERS: usize = 128;
const MAX_SECRET_BYTES: usize = 1024;
/// Spans of statistics have about so many parts.
const BUCKETS: i64 = 24;
const LEAST_BUCKET_MS: i64 = 60_000;

/// A webhook to be made.
#[derive(Debug, Clone)]
pub struct WebhookSpec {
    pub name: String,
    pub url: String,
    pub events: Vec<String>,
    pub secret: SecretString,
    pub enabled: bool,
}

/// What is to be changed of a webhook.
#[derive(Debug, Clone, Default)]
pub struct WebhookUpdate {
    pub name: Option<String>,
    pub url: Option<String>,
    pub events: Option<Vec<String>>,
    pub secret: Option<SecretString>,
    pub enabled: Option<bool>,
}

/// Which deliveries are asked for.
#[derive(Debug, Clone, Default)]
pub struct DeliveriesRequest {
    pub cursor: Option<String>,
    pub limit: u32,
    pub ascending: bool,
    pub start: Option<DateTime<Utc>>,
    pub end: Option<DateTime<Utc>>,
    /// Those that arrived, or those whose last attempt failed.
    pub success: Option<bool>,
    pub types: Vec<String>,
}

/// A page of deliveries.
#[derive(Debug, Clone)]
pub struct DeliveriesPage {
    pub deliveries: Vec<Delivery>,
    pub next_cursor: Option<String>,
}

impl Control {
    /// Sends events to webhooks from here on, until [`Self::shutdown`], whenever no other
    /// process does.
    ///
    /// # Errors
    /// When the certificates of receivers could not be checked.
    pub fn start_webhooks(
        self: &Arc<Self>,
        config: hearth_webhooks::Config,
    ) -> Result<(), hearth_webhooks::Error> {
        let deliverer = Deliverer::new(
            Arc::clone(&self.store),
            self.sealer(),
            config,
            self.config.owner.clone(),
            Arc::clone(&self.deliver),
        )?;
        let stop = self.followers_stop.clone();
        self.tasks.spawn(async move { deliverer.run(stop).await });
        Ok(())
    }

    pub(crate) async fn webhooks_release(&self) {
        let lease = LeaseName::webhooks();
        if let Err(error) = self.store.lease_release(&lease, &self.config.owner).await {
            tracing::debug!(%error, "release of a lease failed");
        }
    }

    fn sealer(&self) -> Sealer {
        Sealer::new(&self.config.token_seed)
    }

    /// Errors: `Invalid`; `LimitReached`.
    pub async fn webhook_create(
        &self,
        caller: &Caller,
        spec: WebhookSpec,
    ) -> Result<Webhook, Error> {
        check_name(&spec.name)?;
        check_secret(&spec.secret)?;
        let id = Uuid::new_v4();
        let new = NewWebhook {
            id,
            team_id: caller.team_id(),
            url: checked_url(&spec.url)?,
            events: checked_events(spec.events)?,
            sealed_secret: self.sealer().seal(id, &spec.secret),
            name: spec.name,
            enabled: spec.enabled,
            created_at: Utc::now(),
        };
        let most = self.config.events.webhooks_of_team;
        let made = self.store.webhook_create(new, most).await;
        made.map_err(failed("create"))?
            .ok_or_else(|| Error::new(Kind::LimitReached, "Webhook limit reached").never_retry())
    }

    pub async fn webhook_list(&self, caller: &Caller) -> Result<Vec<Webhook>, Error> {
        let found = self.store.webhook_list(caller.team_id()).await;
        found.map_err(failed("list"))
    }

    /// Errors: `NotFound`.
    pub async fn webhook(&self, caller: &Caller, id: &str) -> Result<Webhook, Error> {
        let found = self.store.webhook(caller.team_id(), webhook_id(id)?).await;
        found.map_err(failed("get"))?.ok_or_else(not_found)
    }

    /// Errors: `Invalid`; `NotFound`.
    pub async fn webhook_update(
        &self,
        caller: &Caller,
        id: &str,
        update: WebhookUpdate,
    ) -> Result<Webhook, Error> {
        let id = webhook_id(id)?;
        if let Some(name) = &update.name {
            check_name(name)?;
        }
        if let Some(secret) = &update.secret {
            check_secret(secret)?;
        }
        let change = WebhookChange {
            name: update.name,
            url: update.url.as_deref().map(checked_url).transpose()?,
            events: update.events.map(checked_events).transpose()?,
            sealed_secret: update.secret.map(|secret| self.sealer().seal(id, &secret)),
            enabled: update.enabled,
        };
        let changed = self
            .store
            .webhook_update(caller.team_id(), id, change)
            .await;
        changed.map_err(failed("update"))?.ok_or_else(not_found)
    }

    /// Errors: `NotFound`.
    pub async fn webhook_delete(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        let gone = self
            .store
            .webhook_delete(caller.team_id(), webhook_id(id)?)
            .await;
        match gone.map_err(failed("delete"))? {
            true => Ok(()),
            false => Err(not_found()),
        }
    }

    /// Errors: `Invalid`; `NotFound`.
    pub async fn webhook_deliveries(
        &self,
        caller: &Caller,
        id: &str,
        request: DeliveriesRequest,
    ) -> Result<DeliveriesPage, Error> {
        for event_type in &request.types {
            types::check("eventType", event_type)?;
        }
        let after = request.cursor.as_deref().map(parse_cursor).transpose()?;
        let webhook = self.webhook(caller, id).await?;
        let query = DeliveryQuery {
            webhook_id: webhook.id,
            after,
            start: request.start,
            end: request.end,
            success: request.success,
            types: request.types,
            ascending: request.ascending,
            limit: request.limit,
        };
        let found = self.store.delivery_list(&query).await;
        let DeliveryPage { deliveries, more } = found.map_err(failed("get"))?;
        let next_cursor = deliveries.last().filter(|_| more).map(cursor);
        Ok(DeliveriesPage {
            deliveries,
            next_cursor,
        })
    }

    /// Attempts in a span of time, the last day where none is said, in its parts.
    ///
    /// Errors: `Invalid`; `NotFound`.
    pub async fn webhook_stats(
        &self,
        caller: &Caller,
        id: &str,
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
    ) -> Result<Vec<AttemptStats>, Error> {
        // The end is not part of the time, what is of this millisecond is.
        let end = end.unwrap_or_else(|| Utc::now() + TimeDelta::milliseconds(1));
        let start = start.unwrap_or(end - TimeDelta::days(1));
        if start >= end {
            return Err(Error::invalid("start", "must be before the end"));
        }
        let webhook = self.webhook(caller, id).await?;
        let bucket = (end - start).num_milliseconds() / BUCKETS;
        let bucket = bucket.clamp(LEAST_BUCKET_MS, i64::from(u32::MAX));
        let bucket = u32::try_from(bucket).unwrap_or(u32::MAX);
        let stats = self.store.delivery_stats(webhook.id, start..end, bucket);
        stats.await.map_err(failed("get"))
    }

    /// Delivers an event to a webhook once more, whatever became of it before.
    ///
    /// Errors: `NotFound`; `Conflict`, the webhook is disabled.
    pub async fn webhook_redeliver(
        &self,
        caller: &Caller,
        id: &str,
        event: &str,
    ) -> Result<(), Error> {
        let webhook = self.webhook(caller, id).await?;
        let unknown = || Error::not_found("Webhook delivery not found");
        let event: Uuid = event.parse().map_err(|_| unknown())?;
        let begun = self
            .store
            .delivery_redeliver(caller.team_id(), webhook.id, event, Utc::now())
            .await;
        match begun.map_err(failed("update"))? {
            Redelivery::Begun => {
                self.deliver.notify_one();
                Ok(())
            }
            Redelivery::NotFound => Err(unknown()),
            Redelivery::Disabled => Err(Error::new(
                Kind::Conflict,
                "Webhook is disabled: enable it to deliver events",
            )),
        }
    }
}

fn failed(doing: &'static str) -> impl FnOnce(hearth_store::Error) -> Error {
    move |error| {
        let failed = format!("Failed to {doing} webhook");
        reworded(error, "Webhooks are not available", &failed)
    }
}

fn not_found() -> Error {
    Error::not_found("Webhook not found")
}

/// What is no id names no webhook.
fn webhook_id(text: &str) -> Result<Uuid, Error> {
    text.parse().map_err(|_| not_found())
}

fn check_name(name: &str) -> Result<(), Error> {
    let fits = (1..=MAX_NAME_CHARACTERS).contains(&name.chars().count());
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::invalid(
        "name",
        format_args!("must have 1 to {MAX_NAME_CHARACTERS} characters, none of them a control"),
    ))
}

fn check_secret(secret: &SecretString) -> Result<(), Error> {
    if (1..=MAX_SECRET_BYTES).contains(&secret.expose_secret().len()) {
        return Ok(());
    }
    Err(Error::invalid(
        "signatureSecret",
        format_args!("must have 1 to {MAX_SECRET_BYTES} bytes"),
    ))
}

fn checked_url(url: &str) -> Result<String, Error> {
    match hearth_webhooks::check_url(url) {
        true => Ok(url.to_owned()),
        // The contract's text.
        false => Err(Error::new(
            Kind::Invalid,
            "url: must be a valid http or https URL",
        )),
    }
}

fn checked_events(mut events: Vec<String>) -> Result<Vec<String>, Error> {
    if events.is_empty() {
        return Err(Error::invalid("events", "must name at least one type"));
    }
    for event in &events {
        types::check("events", event)?;
    }
    events.sort();
    events.dedup();
    Ok(events)
}

fn cursor(delivery: &Delivery) -> String {
    let place = format!(
        "{}__{}",
        delivery.occurred_at.timestamp_millis(),
        delivery.event_id
    );
    BASE64_URL_SAFE_NO_PAD.encode(place)
}

fn parse_cursor(text: &str) -> Result<DeliveryPlace, Error> {
    let read = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let place = String::from_utf8(bytes).ok()?;
        let (time, id) = place.split_once("__")?;
        Some(DeliveryPlace {
            occurred_at: DateTime::from_timestamp_millis(time.parse().ok()?)?,
            event_id: id.parse().ok()?,
        })
    };
    read().ok_or_else(|| Error::invalid("cursor", "is none that an answer gave"))
}
