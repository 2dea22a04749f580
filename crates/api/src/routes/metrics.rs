//! What sandboxes use.

use crate::convert;
use crate::error::{Failure, Result};
use crate::extract::{ForSandboxes, SandboxPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use hearth_control::Error;
use hearth_ids::SandboxId;
use hearth_wire::{ApiError, SandboxMetric, SandboxesWithMetrics};

/// Get the resource usage of a sandbox
///
/// Processor, memory and disk over time. Without `start` and `end` the whole recorded
/// history, which outlives the sandbox for a while.
#[utoipa::path(get, path = "/sandboxes/{sandboxID}/metrics", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(
        ("sandboxID" = String, Path),
        ("start" = Option<i64>, Query, description = "Seconds since 1970"),
        ("end" = Option<i64>, Query, description = "Seconds since 1970"),
    ),
    responses(
        (status = 200, description = "Samples of the asked-for time, the oldest first, at most 1000, evenly spread", body = Vec<SandboxMetric>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_metrics(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Result<Json<Vec<SandboxMetric>>> {
    let (start, end) = (query.unix_time("start")?, query.unix_time("end")?);
    let samples = state
        .control
        .sandbox_metrics(&caller, &id, start, end)
        .await?;
    Ok(Json(samples.iter().map(convert::metric).collect()))
}

/// Get the present resource usage of several sandboxes
///
/// The newest sample of each. Sandboxes that are not the team's, or that do not answer,
/// are left out.
#[utoipa::path(get, path = "/sandboxes/metrics", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandbox_ids" = String, Query, description = "At most 100, with commas between")),
    responses(
        (status = 200, body = SandboxesWithMetrics),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_metrics_list(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    query: Query,
) -> Result<Json<SandboxesWithMetrics>> {
    let ids = query
        .list("sandbox_ids")
        .map(|text| {
            SandboxId::parse_client(text)
                .map_err(|error| Failure::from(Error::invalid("sandbox_ids", error)))
        })
        .collect::<Result<Vec<_>>>()?;
    let samples = state.control.sandbox_metrics_of(&caller, &ids).await?;
    Ok(Json(SandboxesWithMetrics {
        sandboxes: samples
            .iter()
            .map(|(id, sample)| (id.to_string(), convert::metric(sample)))
            .collect(),
    }))
}
