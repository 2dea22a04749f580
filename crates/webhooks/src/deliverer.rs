//! The deliverer: finds what is due, tries it, writes down what came of it.
//!
//! One process at a time delivers, by a lease; no correctness rests on that. A round asks
//! for what is due and begins attempts, as many at each webhook as it may have. A new
//! round begins when an attempt has ended, an event has come, or something falls due.

use crate::client::{Answer, Receivers, Unanswered, headers_json};
use crate::schedule::retry;
use crate::sign::{e2b_signature, hearth_signature};
use crate::{Config, DISABLED_EVENT, Error, Sealer, body};
use chrono::{DateTime, TimeDelta, Utc};
use hearth_store::{Attempt, DueDelivery, Event, LeaseName, OwnerId, Store, Verdict, Webhook};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use secrecy::{ExposeSecret, SecretString};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// How long this process is believed to deliver after it was last heard of.
const LEASE: Duration = Duration::from_secs(60);
const RENEWAL: Duration = Duration::from_secs(20);
/// What other processes put in is found at the latest after this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How much of a body is kept with an attempt.
const MAX_KEPT_BYTES: usize = 64 << 10;
const AGENT: &str = concat!("Hearth-Webhooks/", env!("CARGO_PKG_VERSION"));
const REDACTED: HeaderValue = HeaderValue::from_static("[redacted]");

const WEBHOOK_ID: HeaderName = HeaderName::from_static("e2b-webhook-id");
const DELIVERY_ID: HeaderName = HeaderName::from_static("e2b-delivery-id");
const SIGNATURE_VERSION: HeaderName = HeaderName::from_static("e2b-signature-version");
const SIGNATURE: HeaderName = HeaderName::from_static("e2b-signature");
const OWN_SIGNATURE: HeaderName = HeaderName::from_static("hearth-signature");

/// Sends events to webhooks.
pub struct Deliverer {
    store: Arc<dyn Store>,
    sealer: Sealer,
    receivers: Receivers,
    config: Config,
    owner: OwnerId,
    /// Told when there may be something to send.
    wake: Arc<Notify>,
    /// The events that are on their way, by webhook.
    in_flight: Mutex<HashMap<Uuid, HashSet<Uuid>>>,
    renewed: Mutex<Option<Instant>>,
}

impl Deliverer {
    /// A deliverer for a process, which `wake` tells of new deliveries.
    ///
    /// # Errors
    /// When receivers' certificates could not be checked.
    pub fn new(
        store: Arc<dyn Store>,
        sealer: Sealer,
        config: Config,
        owner: OwnerId,
        wake: Arc<Notify>,
    ) -> Result<Self, Error> {
        Ok(Self {
            store,
            sealer,
            receivers: Receivers::new(&config)?,
            config,
            owner,
            wake,
            in_flight: Mutex::default(),
            renewed: Mutex::default(),
        })
    }

    /// Delivers until `stop`. Attempts that are on their way then are left to the next
    /// deliverer.
    pub async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let tasks = TaskTracker::new();
        let mut failed = false;
        while !stop.is_cancelled() {
            let wait = match this.round(&tasks, &stop).await {
                Ok(wait) => {
                    failed = false;
                    wait
                }
                Err(error) => {
                    // Once for a store that is away, however long it is.
                    if !failed {
                        tracing::warn!(%error, "find events to deliver failed");
                    }
                    failed = true;
                    LONGEST_WAIT
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Begins what is due. Answers when to look again.
    async fn round(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> hearth_store::Result<Duration> {
        if !self.holds_lease().await? {
            return Ok(LONGEST_WAIT);
        }
        let now = Utc::now();
        for webhook in self.store.delivery_webhooks_due(now).await? {
            // As it is before the store is asked: an attempt that ends meanwhile is still due in
            // the answer, and is not to be made once more.
            let under_way = self.lock().get(&webhook.id).cloned().unwrap_or_default();
            let busy = under_way.len();
            if busy >= self.config.concurrency {
                continue;
            }
            // Those that are on their way are still due.
            let limit = u32::try_from(self.config.concurrency + busy).unwrap_or(u32::MAX);
            let due = self.store.delivery_due(webhook.id, now, limit).await?;
            let webhook = Arc::new(webhook);
            for due in due {
                if !under_way.contains(&due.event.id) && self.begin(&webhook, due.event.id) {
                    let (this, webhook) = (Arc::clone(self), Arc::clone(&webhook));
                    let stop = stop.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = this.deliver(&webhook, &due) => {}
                        }
                        this.end(webhook.id, due.event.id);
                    });
                }
            }
        }
        let next = self.store.delivery_next(now).await?;
        let wait = next.and_then(|next| (next - Utc::now()).to_std().ok());
        let none = if next.is_some() {
            Duration::ZERO
        } else {
            LONGEST_WAIT
        };
        Ok(wait.unwrap_or(none).min(LONGEST_WAIT))
    }

    /// Takes or renews the lease, if it is time to.
    async fn holds_lease(&self) -> hearth_store::Result<bool> {
        let renewed = *lock(&self.renewed);
        if renewed.is_some_and(|at| at.elapsed() < RENEWAL) {
            return Ok(true);
        }
        let lease = LeaseName::webhooks();
        let held = self.store.lease_acquire(&lease, &self.owner, LEASE).await?;
        *lock(&self.renewed) = held.then(Instant::now);
        Ok(held)
    }

    /// Whether an attempt may begin; it is on its way then.
    fn begin(&self, webhook: &Webhook, event: Uuid) -> bool {
        let mut in_flight = self.lock();
        let events = in_flight.entry(webhook.id).or_default();
        events.len() < self.config.concurrency && events.insert(event)
    }

    fn end(&self, webhook: Uuid, event: Uuid) {
        let mut in_flight = self.lock();
        if let Some(events) = in_flight.get_mut(&webhook) {
            events.remove(&event);
            if events.is_empty() {
                in_flight.remove(&webhook);
            }
        }
        drop(in_flight);
        self.wake.notify_one();
    }

    /// One attempt, and what follows from it.
    async fn deliver(&self, webhook: &Webhook, due: &DueDelivery) {
        let attempt = self.attempt(webhook, &due.event).await;
        let verdict = self.verdict(webhook, due, &attempt);
        let noted = self
            .store
            .delivery_attempted(&attempt, &verdict, Utc::now())
            .await;
        match noted {
            Ok(false) => {}
            Ok(true) => {
                tracing::warn!(webhook = %webhook.id, team = %webhook.team_id, "webhook disabled: it has failed for long");
            }
            Err(error) => {
                // It will be tried again: at least once is what is promised. Not at once,
                // as a database that is away would have receivers flooded.
                tracing::error!(webhook = %webhook.id, %error, "note attempt failed");
                tokio::time::sleep(LONGEST_WAIT).await;
            }
        }
    }

    async fn attempt(&self, webhook: &Webhook, event: &Event) -> Attempt {
        let (id, at, begun) = (Uuid::new_v4(), Utc::now(), Instant::now());
        let mut attempt = Attempt {
            id,
            webhook_id: webhook.id,
            event_id: event.id,
            success: false,
            duration_ms: 0,
            request_url: webhook.url.clone(),
            request_body: String::new(),
            request_headers: "{}".to_owned(),
            response_body: None,
            response_headers: None,
            response_status: None,
            error_class: None,
            error_message: None,
            at,
        };
        match self.send(webhook, event, &mut attempt).await {
            Ok(answer) => note_answer(&mut attempt, answer),
            Err(unanswered) => {
                attempt.error_class = Some(unanswered.class.to_owned());
                attempt.error_message = Some(unanswered.message);
            }
        }
        attempt.duration_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
        attempt
    }

    /// Signs and sends; notes what is sent.
    async fn send(
        &self,
        webhook: &Webhook,
        event: &Event,
        attempt: &mut Attempt,
    ) -> Result<Answer, Unanswered> {
        let body = body::body(event).map_err(|error| Unanswered {
            class: "request_error",
            message: format!("the event cannot be written: {error}"),
        })?;
        attempt.request_body = kept(&body);
        let secret = self.sealer.open(webhook.id, &webhook.sealed_secret);
        let secret = secret.ok_or_else(|| Unanswered {
            class: "signature_error",
            message: "the signature secret cannot be read: set it again".to_owned(),
        })?;
        let headers = headers(webhook, attempt, &secret, &body)?;
        attempt.request_headers = shown(&headers);
        self.receivers.post(&webhook.url, headers, body).await
    }

    fn verdict(&self, webhook: &Webhook, due: &DueDelivery, attempt: &Attempt) -> Verdict {
        if attempt.success {
            return Verdict::Success;
        }
        let now = Utc::now();
        let gone = attempt.response_status == Some(410);
        let wait = retry(&self.config.retries, due.attempts + 1, due.event.id);
        let (failing_before, reason) = match wait {
            // The receiver itself says that it wants no more.
            _ if gone => (now, "the receiver answered 410 Gone".to_owned()),
            Some(wait) => return Verdict::Again(now + wait),
            None => {
                let hours = self.config.disable_after.as_secs() / 3600;
                let last = attempt.error_message.as_deref().unwrap_or_default();
                let reason = format!("every delivery has failed for {hours} hours: {last}");
                (now - span(self.config.disable_after), reason)
            }
        };
        Verdict::GiveUp {
            failing_before,
            disabled: Box::new(disabled_event(webhook, &reason, now)),
            reason,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, HashSet<Uuid>>> {
        lock(&self.in_flight)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of the locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn span(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn note_answer(attempt: &mut Attempt, answer: Answer) {
    let status = answer.status;
    attempt.success = (200..300).contains(&status);
    if !attempt.success {
        let moved = (300..400).contains(&status);
        let why = if moved {
            ": redirects are not followed"
        } else {
            ""
        };
        attempt.error_class = Some("http_error".to_owned());
        attempt.error_message = Some(format!("the receiver answered {status}{why}"));
    }
    attempt.response_status = Some(status);
    attempt.response_headers = Some(answer.headers);
    attempt.response_body = Some(answer.body);
}

fn headers(
    webhook: &Webhook,
    attempt: &Attempt,
    secret: &SecretString,
    body: &str,
) -> Result<HeaderMap, Unanswered> {
    let secret = secret.expose_secret();
    let own = hearth_signature(secret, attempt.at.timestamp(), body.as_bytes());
    let text = |text: String| {
        HeaderValue::from_str(&text).map_err(|error| Unanswered {
            class: "request_error",
            message: error.to_string(),
        })
    };
    Ok(HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (USER_AGENT, HeaderValue::from_static(AGENT)),
        (WEBHOOK_ID, text(webhook.id.to_string())?),
        (DELIVERY_ID, text(attempt.id.to_string())?),
        (SIGNATURE_VERSION, HeaderValue::from_static("v1")),
        (SIGNATURE, text(e2b_signature(secret, body.as_bytes()))?),
        (OWN_SIGNATURE, text(own)?),
    ]))
}

/// The headers as they are kept: what the secret could be guessed from is not.
fn shown(headers: &HeaderMap) -> String {
    let mut shown = headers.clone();
    shown.insert(SIGNATURE, REDACTED);
    shown.insert(OWN_SIGNATURE, REDACTED);
    headers_json(&shown)
}

/// What is kept of a body: all of it, but for very long ones.
fn kept(body: &str) -> String {
    body[..body.floor_char_boundary(MAX_KEPT_BYTES)].to_owned()
}

/// Whom a webhook tells, without what may be secret in its address.
fn receiver(url: &str) -> String {
    let uri = url.parse::<Uri>().unwrap_or_default();
    let (scheme, host) = (uri.scheme_str().unwrap_or(""), uri.host().unwrap_or(""));
    format!("{scheme}://{host}")
}

fn disabled_event(webhook: &Webhook, reason: &str, now: DateTime<Utc>) -> Event {
    let data = serde_json::json!({
        "webhook_id": webhook.id.to_string(),
        "name": webhook.name,
        "url": receiver(&webhook.url),
        "reason": reason,
    });
    Event {
        id: Uuid::new_v4(),
        team_id: webhook.team_id,
        event_type: DISABLED_EVENT.to_owned(),
        category: Some("webhook".to_owned()),
        label: Some("disable".to_owned()),
        data: Some(data.to_string()),
        occurred_at: now,
        sandbox_id: None,
        execution_id: None,
        template_id: None,
        build_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_bodies_are_kept_in_part() {
        assert_eq!(kept("{}"), "{}");
        let long = "ä".repeat(MAX_KEPT_BYTES);
        assert_eq!(kept(&format!("x{long}")).len(), MAX_KEPT_BYTES - 1);
    }

    #[test]
    fn of_a_receiver_its_secrets_are_not_told() {
        let told = receiver("https://hooks.example.com:8443/services/T0/B0/secret?token=1");
        assert_eq!(told, "https://hooks.example.com");
    }
}
