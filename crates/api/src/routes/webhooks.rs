//! Webhooks: where a team wants its events sent.

use crate::audit;
use crate::error::{Failure, Result};
use crate::extract::{Body, ForWebhooks, SegmentPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hearth_control::{
    Attempt, AttemptStats, Caller, DeliveriesRequest, Delivery, Error, Kind, Webhook as Kept,
    WebhookSpec, WebhookUpdate,
};
use hearth_wire::{
    ApiError, DeliveryAttempt, DeliveryBucket, DeliveryStatus, DurationStats, NewWebhook,
    UpdateWebhook, Webhook, WebhookDeliveries, WebhookDelivery, WebhookStats,
};

fn shown(webhook: Kept) -> Webhook {
    Webhook {
        id: webhook.id.to_string(),
        name: webhook.name,
        created_at: webhook.created_at,
        team_id: webhook.team_id.to_string(),
        url: webhook.url,
        enabled: webhook.enabled,
        events: webhook.events,
        disabled_reason: webhook.disabled_reason,
    }
}

/// A refusal of what a webhook is to be, in the contract's words.
fn refused(failure: Failure) -> Failure {
    match failure {
        Failure::Control(error)
            if error.kind == Kind::Invalid && !error.message.starts_with("url: ") =>
        {
            let why = error.message.trim_start_matches("validation error: ");
            let message = format!("Invalid webhook creation request: {why}");
            Failure::Control(Error { message, ..error })
        }
        other => other,
    }
}

/// Create a webhook
///
/// Events of these types are sent to the address from now on. The signature secret is in
/// no answer.
#[utoipa::path(post, path = "/events/webhooks", tag = "events", security(("ApiKeyAuth" = [])),
    request_body = NewWebhook,
    responses(
        (status = 201, body = Webhook),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 429, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_create(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
    body: Result<Body<NewWebhook>>,
) -> Result<(StatusCode, Json<Webhook>)> {
    let Body(body) = body.map_err(refused)?;
    let spec = WebhookSpec {
        name: body.name,
        url: body.url,
        events: body.events,
        secret: body.signature_secret.into(),
        enabled: body.enabled.unwrap_or(true),
    };
    let made = state.control.webhook_create(&caller, spec).await;
    let made = made.map_err(|error| refused(error.into()))?;
    audit::created(&made.id.to_string());
    Ok((StatusCode::CREATED, Json(shown(made))))
}

/// List the team's webhooks
///
/// Oldest first.
#[utoipa::path(get, path = "/events/webhooks", tag = "events", security(("ApiKeyAuth" = [])),
    responses(
        (status = 200, body = Vec<Webhook>),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 500, body = ApiError),
        (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_list(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
) -> Result<Json<Vec<Webhook>>> {
    let webhooks = state.control.webhook_list(&caller).await?;
    Ok(Json(webhooks.into_iter().map(shown).collect()))
}

/// Get a webhook
///
/// With the reason, where it was disabled for failing.
#[utoipa::path(get, path = "/events/webhooks/{webhookID}", tag = "events", security(("ApiKeyAuth" = [])),
    params(("webhookID" = String, Path)),
    responses(
        (status = 200, body = Webhook),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError), (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_get(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
    SegmentPath(id): SegmentPath,
) -> Result<Json<Webhook>> {
    Ok(Json(shown(state.control.webhook(&caller, &id).await?)))
}

/// Change a webhook
///
/// What is left out stays. Disabling ends the deliveries that wait; enabling forgets what
/// failed before.
#[utoipa::path(patch, path = "/events/webhooks/{webhookID}", tag = "events", security(("ApiKeyAuth" = [])),
    params(("webhookID" = String, Path)),
    request_body = UpdateWebhook,
    responses(
        (status = 200, body = Webhook),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_update(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
    SegmentPath(id): SegmentPath,
    Body(body): Body<UpdateWebhook>,
) -> Result<Json<Webhook>> {
    let update = WebhookUpdate {
        name: body.name,
        url: body.url,
        events: body.events,
        secret: body.signature_secret.map(Into::into),
        enabled: body.enabled,
    };
    let changed = state.control.webhook_update(&caller, &id, update).await?;
    Ok(Json(shown(changed)))
}

/// Delete a webhook
///
/// With all that is known of its deliveries.
#[utoipa::path(delete, path = "/events/webhooks/{webhookID}", tag = "events", security(("ApiKeyAuth" = [])),
    params(("webhookID" = String, Path)),
    responses(
        (status = 200, description = "Deleted"),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError), (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_delete(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
    SegmentPath(id): SegmentPath,
) -> Result<StatusCode> {
    state.control.webhook_delete(&caller, &id).await?;
    Ok(StatusCode::OK)
}

fn status(success: bool) -> DeliveryStatus {
    match success {
        true => DeliveryStatus::Success,
        false => DeliveryStatus::Failed,
    }
}

fn delivery(caller: &Caller, delivery: Delivery) -> WebhookDelivery {
    use hearth_control::DeliveryState;
    let (sandbox_id, event_type) = (delivery.sandbox_id, delivery.event_type);
    let attempt = |attempt: Attempt| DeliveryAttempt {
        id: attempt.id.to_string(),
        team_id: caller.team_id().to_string(),
        webhook_id: attempt.webhook_id.to_string(),
        event_id: attempt.event_id.to_string(),
        sandbox_id: sandbox_id.clone(),
        event_type: event_type.clone(),
        status: status(attempt.success),
        duration_ms: attempt.duration_ms,
        request_url: attempt.request_url,
        request_body: attempt.request_body,
        request_headers: attempt.request_headers,
        response_body: attempt.response_body,
        response_headers: attempt.response_headers,
        response_http_status_code: attempt.response_status,
        error_class: attempt.error_class,
        error_message: attempt.error_message,
        timestamp: attempt.at,
    };
    WebhookDelivery {
        event_id: delivery.event_id.to_string(),
        attempts: delivery.attempts.into_iter().map(attempt).collect(),
        status: match delivery.state {
            DeliveryState::Pending => DeliveryStatus::Pending,
            DeliveryState::Success => DeliveryStatus::Success,
            DeliveryState::Failed => DeliveryStatus::Failed,
        },
        event_type,
        sandbox_id,
    }
}

/// Both may be named: then all are meant.
fn wanted_status(query: &Query) -> Result<Option<bool>> {
    let mut wanted = None;
    for word in query.list("deliveryStatus") {
        let success = match word {
            "success" => true,
            "failed" => false,
            other => {
                let why = format!("{other:?} is not one of success, failed");
                return Err(Error::invalid("deliveryStatus", why).into());
            }
        };
        match wanted {
            Some(before) if before != success => return Ok(None),
            _ => wanted = Some(success),
        }
    }
    Ok(wanted)
}

/// List the deliveries of a webhook
///
/// By the times of their events, the newest first unless `orderAsc` is true, each with its
/// attempts. They are kept for as long as events are.
#[utoipa::path(get, path = "/events/webhooks/{webhookID}/deliveries", tag = "events", security(("ApiKeyAuth" = [])),
    params(
        ("webhookID" = String, Path),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 25 unless said"),
        ("orderAsc" = Option<bool>, Query, description = "The oldest first"),
        ("start" = Option<String>, Query, description = "RFC 3339"),
        ("end" = Option<String>, Query, description = "RFC 3339"),
        ("deliveryStatus" = Option<Vec<String>>, Query, description = "success, failed: of the last attempt"),
        ("eventType" = Option<Vec<String>>, Query, description = "Only these types"),
    ),
    responses(
        (status = 200, body = WebhookDeliveries),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_deliveries(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
    SegmentPath(id): SegmentPath,
    query: Query,
) -> Result<Json<WebhookDeliveries>> {
    let orders = [("true", true), ("false", false)];
    let limit = query.integer_within("limit", 1..=100)?.unwrap_or(25);
    let request = DeliveriesRequest {
        cursor: query.text("cursor").map(str::to_owned),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        ascending: query.word("orderAsc", &orders)?.unwrap_or(false),
        start: query.rfc3339("start")?,
        end: query.rfc3339("end")?,
        success: wanted_status(&query)?,
        types: query.list("eventType").map(str::to_owned).collect(),
    };
    let page = state
        .control
        .webhook_deliveries(&caller, &id, request)
        .await?;
    let deliveries = page.deliveries.into_iter();
    Ok(Json(WebhookDeliveries {
        data: deliveries.map(|found| delivery(&caller, found)).collect(),
        next_cursor: page.next_cursor,
    }))
}

fn durations(stats: &AttemptStats) -> DurationStats {
    let count = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    let average = match stats.total {
        0 => 0.0,
        total => count(stats.sum_ms) / count(total),
    };
    DurationStats {
        minimum: stats.minimum_ms,
        average,
        maximum: stats.maximum_ms,
    }
}

fn summed(stats: &[AttemptStats]) -> AttemptStats {
    AttemptStats {
        total: stats.iter().map(|part| part.total).sum(),
        failed: stats.iter().map(|part| part.failed).sum(),
        sum_ms: stats.iter().map(|part| part.sum_ms).sum(),
        minimum_ms: stats.iter().map(|part| part.minimum_ms).min().unwrap_or(0),
        maximum_ms: stats.iter().map(|part| part.maximum_ms).max().unwrap_or(0),
        ..AttemptStats::default()
    }
}

/// Count the attempts at a webhook
///
/// In a span of time, the last 24 hours unless said, and in each of its parts in which
/// there was one.
#[utoipa::path(get, path = "/events/webhooks/{webhookID}/stats", tag = "events", security(("ApiKeyAuth" = [])),
    params(
        ("webhookID" = String, Path),
        ("start" = Option<String>, Query, description = "RFC 3339"),
        ("end" = Option<String>, Query, description = "RFC 3339"),
    ),
    responses(
        (status = 200, body = WebhookStats),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_stats(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
    SegmentPath(id): SegmentPath,
    query: Query,
) -> Result<Json<WebhookStats>> {
    let (start, end) = (query.rfc3339("start")?, query.rfc3339("end")?);
    let stats = state
        .control
        .webhook_stats(&caller, &id, start, end)
        .await?;
    let all = summed(&stats);
    let bucket = |part: &AttemptStats| DeliveryBucket {
        timestamp: part.from,
        total: part.total,
        failed: part.failed,
        duration_ms: durations(part),
    };
    Ok(Json(WebhookStats {
        buckets: stats.iter().map(bucket).collect(),
        total: all.total,
        failed: all.failed,
        duration_ms: durations(&all),
    }))
}

/// Deliver an event to a webhook again
///
/// Whatever became of it before, with all retries. The webhook has to be enabled.
#[utoipa::path(post, path = "/events/webhooks/{webhookID}/deliveries/{eventID}/redeliver", tag = "events",
    security(("ApiKeyAuth" = [])),
    params(("webhookID" = String, Path), ("eventID" = String, Path)),
    responses(
        (status = 202, description = "It will be delivered"),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn webhook_redeliver(
    State(state): State<AppState>,
    ForWebhooks(caller): ForWebhooks,
    path: std::result::Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode> {
    let invalid = |_| Error::invalid("path", "is not valid percent-encoded UTF-8");
    let Path((id, event)) = path.map_err(invalid)?;
    state
        .control
        .webhook_redeliver(&caller, &id, &event)
        .await?;
    Ok(StatusCode::ACCEPTED)
}
