//! Calls that keep a sandbox's state, and that bring it back.

use super::list::next_token;
use crate::convert::{self, Generation};
use crate::error::Result;
use crate::extract::{Authenticated, Body, OptionalBody, SandboxPath, SegmentPath, sandbox_id};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use hearth_control::{ConnectRequest, ForkRequest, PauseRequest, SnapshotFilter, SnapshotRequest};
use hearth_wire::{
    ApiError, ForkResult, ForkSandbox, PauseSandbox, ResumeSandbox, RollbackSandbox, Sandbox,
    SnapshotInfo, SnapshotSandbox,
};

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/pause", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<PauseSandbox>,
    responses(
        (status = 204, description = "Paused"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Paused already, or on its way elsewhere", body = ApiError),
        (status = 500, body = ApiError), (status = 501, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn pause(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    OptionalBody(body): OptionalBody<PauseSandbox>,
) -> Result<StatusCode> {
    let request = PauseRequest {
        memory: body.memory.unwrap_or(true),
        require_healthy_guest: body.require_healthy_guest.unwrap_or(false),
    };
    state.control.sandbox_pause(&caller, &id, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/resume", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<ResumeSandbox>,
    responses(
        (status = 201, description = "Resumed; `timeout` defaults to 15 seconds", body = Sandbox),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Runs already, or on its way elsewhere", body = ApiError),
        (status = 429, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn resume(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SegmentPath(id): SegmentPath,
    OptionalBody(body): OptionalBody<ResumeSandbox>,
) -> Result<(StatusCode, Json<Sandbox>)> {
    let request = ConnectRequest {
        timeout_seconds: body
            .timeout
            .unwrap_or_else(|| Generation::First.default_timeout()),
        memory: body.memory.unwrap_or(true),
    };
    caller.check_timeout(request.timeout_seconds)?;
    let id = sandbox_id(&id)?;
    let access = state.control.sandbox_resume(&caller, &id, request).await?;
    Ok((StatusCode::CREATED, Json(convert::sandbox(access))))
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/fork", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<ForkSandbox>,
    responses(
        (status = 201, description = "Each fork, or why there is none", body = Vec<ForkResult>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Does not run, or on its way elsewhere", body = ApiError),
        (status = 500, body = ApiError), (status = 501, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn fork(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SegmentPath(id): SegmentPath,
    OptionalBody(body): OptionalBody<ForkSandbox>,
) -> Result<(StatusCode, Json<Vec<ForkResult>>)> {
    let request = ForkRequest {
        timeout_seconds: body
            .timeout
            .unwrap_or_else(|| Generation::First.default_timeout()),
        count: body.count.unwrap_or(1),
    };
    caller.check_timeout(request.timeout_seconds)?;
    let id = sandbox_id(&id)?;
    let forks = state.control.sandbox_fork(&caller, &id, request).await?;
    let results = forks.into_iter().map(convert::fork).collect();
    Ok((StatusCode::CREATED, Json(results)))
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/rollback", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = RollbackSandbox,
    responses(
        (status = 200, description = "As it was at the snapshot, under the same id and tokens", body = Sandbox),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError),
        (status = 409, description = "Does not run, or on its way elsewhere", body = ApiError),
        (status = 500, body = ApiError), (status = 501, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn rollback(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    Body(body): Body<RollbackSandbox>,
) -> Result<Json<Sandbox>> {
    let access = state
        .control
        .sandbox_rollback(&caller, &id, &body.snapshot_id)
        .await?;
    Ok(Json(convert::sandbox(access)))
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/snapshots", tag = "snapshots", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<SnapshotSandbox>,
    responses(
        (status = 201, description = "Taken; the sandbox goes on", body = SnapshotInfo),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Does not run, on its way elsewhere, or the name is a template's", body = ApiError),
        (status = 500, body = ApiError), (status = 501, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn snapshot(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    OptionalBody(body): OptionalBody<SnapshotSandbox>,
) -> Result<(StatusCode, Json<SnapshotInfo>)> {
    let request = SnapshotRequest {
        name: body.name.filter(|name| !name.is_empty()),
        memory: body.memory.unwrap_or(true),
    };
    let view = state
        .control
        .sandbox_snapshot(&caller, &id, request)
        .await?;
    Ok((StatusCode::CREATED, Json(convert::snapshot(view))))
}

#[utoipa::path(get, path = "/snapshots", tag = "snapshots", security(("ApiKeyAuth" = [])),
    params(
        ("sandboxID" = Option<String>, Query, description = "Only those of this sandbox"),
        ("name" = Option<String>, Query, description = "Only those of this name, or template id"),
        ("limit" = Option<i64>, Query, description = "1 to 100, the default"),
        ("nextToken" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "A page, newest first; each snapshot once, with its newest build", body = Vec<SnapshotInfo>, headers(
            ("X-Next-Token" = String, description = "Where there is a next page"),
        )),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn snapshots(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    query: Query,
) -> Result<(HeaderMap, Json<Vec<SnapshotInfo>>)> {
    let filter = SnapshotFilter {
        sandbox: query.text("sandboxID").map(str::to_owned),
        name: query.text("name").map(str::to_owned),
        page: query.page()?,
    };
    let page = state.control.snapshot_list(&caller, filter).await?;
    let mut headers = HeaderMap::new();
    next_token(&mut headers, page.next_token)?;
    let snapshots = page.entries.into_iter().map(convert::snapshot);
    Ok((headers, Json(snapshots.collect())))
}
