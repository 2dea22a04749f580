//! Lifecycle events of a team.

use crate::error::Result;
use crate::extract::{ForSandboxes, SandboxPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use hearth_control::{Error, Event, EventsRequest};
use hearth_ids::SandboxId;
use hearth_wire::{ApiError, SandboxEvent};

/// Version of the form of events.
const VERSION: &str = "v2";
const MAX_OFFSET: i64 = 1_000_000;

fn shown(event: Event) -> Result<SandboxEvent> {
    let data = event.data.as_deref().map(serde_json::from_str).transpose();
    Ok(SandboxEvent {
        id: event.id.to_string(),
        version: VERSION.to_owned(),
        r#type: event.event_type,
        event_category: event.category,
        event_label: event.label,
        event_data: data.map_err(Error::internal)?,
        timestamp: event.occurred_at,
        sandbox_id: text(event.sandbox_id),
        sandbox_execution_id: text(event.execution_id),
        sandbox_template_id: text(event.template_id),
        sandbox_build_id: text(event.build_id),
        sandbox_team_id: event.team_id.to_string(),
    })
}

fn text(id: Option<impl ToString>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn request(query: &Query, sandbox_id: Option<SandboxId>) -> Result<EventsRequest> {
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let orders = [("true", true), ("false", false)];
    Ok(EventsRequest {
        sandbox_id,
        types: query.list("types").map(str::to_owned).collect(),
        ascending: query.word("orderAsc", &orders)?.unwrap_or(false),
        offset: number(query.integer_within("offset", 0..=MAX_OFFSET)?.unwrap_or(0)),
        limit: number(query.integer_within("limit", 1..=100)?.unwrap_or(10)),
    })
}

async fn list(
    state: &AppState,
    caller: &hearth_control::Caller,
    request: EventsRequest,
) -> Result<Json<Vec<SandboxEvent>>> {
    let events = state.control.event_list(caller, request).await?;
    let events: Result<Vec<_>> = events.into_iter().map(shown).collect();
    Ok(Json(events?))
}

/// List the team's events
///
/// Of sandboxes, template builds and webhooks; the newest first unless `orderAsc` is true.
/// Events are kept for seven days unless the operator says otherwise.
#[utoipa::path(get, path = "/events/sandboxes", tag = "events", security(("ApiKeyAuth" = [])),
    params(
        ("offset" = Option<i64>, Query, description = "0 unless said"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 10 unless said"),
        ("orderAsc" = Option<bool>, Query, description = "The oldest first"),
        ("types" = Option<Vec<String>>, Query, description = "Only these types; may be repeated"),
    ),
    responses(
        (status = 200, body = Vec<SandboxEvent>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 500, body = ApiError), (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn event_list(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    query: Query,
) -> Result<Json<Vec<SandboxEvent>>> {
    list(&state, &caller, request(&query, None)?).await
}

/// List the events of a sandbox
///
/// Also of one that is no more. Not found where nothing is known of it.
#[utoipa::path(get, path = "/events/sandboxes/{sandboxID}", tag = "events", security(("ApiKeyAuth" = [])),
    params(
        ("sandboxID" = String, Path),
        ("offset" = Option<i64>, Query, description = "0 unless said"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 10 unless said"),
        ("orderAsc" = Option<bool>, Query, description = "The oldest first"),
        ("types" = Option<Vec<String>>, Query, description = "Only these types; may be repeated"),
    ),
    responses(
        (status = 200, body = Vec<SandboxEvent>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn event_list_of_sandbox(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    path: Result<SandboxPath>,
    query: Query,
) -> Result<Json<Vec<SandboxEvent>>> {
    // What is no id names no sandbox.
    let SandboxPath(id) = path.map_err(|_| Error::not_found("Sandbox events not found"))?;
    list(&state, &caller, request(&query, Some(id))?).await
}
