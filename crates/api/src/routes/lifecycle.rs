//! Calls that keep a sandbox's state. They check what any such call checks and
//! then say that they are not available: 501.

use crate::convert::Generation;
use crate::error::Result;
use crate::extract::{Authenticated, OptionalBody, SandboxPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hearth_control::ForkRequest;
use hearth_wire::{
    ApiError, ForkResult, ForkSandbox, PauseSandbox, ResumeSandbox, Sandbox, SnapshotInfo,
    SnapshotSandbox,
};
use std::convert::Infallible;

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/pause", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<PauseSandbox>,
    responses(
        (status = 204, description = "Paused"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError), (status = 501, body = ApiError),
))]
pub(crate) async fn pause(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    OptionalBody(_): OptionalBody<PauseSandbox>,
) -> Result<Infallible> {
    match state.control.sandbox_pause(&caller, &id).await? {}
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/resume", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<ResumeSandbox>,
    responses(
        (status = 201, description = "Resumed", body = Sandbox),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn resume(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    OptionalBody(body): OptionalBody<ResumeSandbox>,
) -> Result<(StatusCode, Json<Sandbox>)> {
    let timeout = body
        .timeout
        .unwrap_or_else(|| Generation::First.default_timeout());
    let access = state.control.sandbox_resume(&caller, &id, timeout).await?;
    Ok((StatusCode::CREATED, Json(crate::convert::sandbox(access))))
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/fork", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<ForkSandbox>,
    responses(
        (status = 201, description = "Each fork, or why there is none", body = Vec<ForkResult>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError), (status = 501, body = ApiError),
))]
pub(crate) async fn fork(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    OptionalBody(body): OptionalBody<ForkSandbox>,
) -> Result<Infallible> {
    let request = ForkRequest {
        timeout_seconds: body
            .timeout
            .unwrap_or_else(|| Generation::First.default_timeout()),
        count: body.count.unwrap_or(1),
    };
    match state.control.sandbox_fork(&caller, &id, request).await? {}
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/snapshots", tag = "snapshots", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<SnapshotSandbox>,
    responses(
        (status = 201, description = "Taken; the sandbox goes on", body = SnapshotInfo),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError), (status = 501, body = ApiError),
))]
pub(crate) async fn snapshot(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    OptionalBody(_): OptionalBody<SnapshotSandbox>,
) -> Result<Infallible> {
    match state.control.sandbox_snapshot(&caller, &id).await? {}
}

#[utoipa::path(get, path = "/snapshots", tag = "snapshots", security(("ApiKeyAuth" = [])),
    params(
        ("sandboxID" = Option<String>, Query), ("name" = Option<String>, Query),
        ("limit" = Option<i64>, Query), ("nextToken" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "There are none, as none can be taken", body = Vec<SnapshotInfo>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn snapshots(
    Authenticated(_): Authenticated,
    query: Query,
) -> Result<Json<Vec<SnapshotInfo>>> {
    query.integer_within("limit", 1..=100)?;
    Ok(Json(Vec::new()))
}
