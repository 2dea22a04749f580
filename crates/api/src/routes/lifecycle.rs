//! Calls that keep a sandbox's state, and that bring it back.

use super::list::next_token;
use crate::audit;
use crate::convert::{self, Generation};
use crate::error::Result;
use crate::extract::{Body, ForSandboxes, OptionalBody, SandboxPath, SegmentPath, sandbox_id};
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

/// Pause a sandbox
///
/// Stops the sandbox and saves its memory and disk, or its disk alone where `memory` is
/// false. Answers when the state is saved.
#[utoipa::path(post, path = "/sandboxes/{sandboxID}/pause", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<PauseSandbox>,
    responses(
        (status = 204, description = "Paused"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Paused already, or on its way elsewhere", body = ApiError),
        (status = 500, body = ApiError), (status = 501, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn sandbox_pause(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
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

/// Resume a paused sandbox
///
/// Restores the sandbox from its saved state under the same id. A sandbox that runs is
/// a conflict; `connect` accepts both.
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
pub(crate) async fn sandbox_resume(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
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

/// Fork a running sandbox
///
/// Makes `count` copies of its memory and disk, each a new sandbox. Each copy succeeds
/// or fails by itself.
#[utoipa::path(post, path = "/sandboxes/{sandboxID}/fork", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<ForkSandbox>,
    responses(
        (status = 201, description = "Each fork, or why there is none", body = Vec<ForkResult>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Does not run, or on its way elsewhere", body = ApiError),
        (status = 500, body = ApiError), (status = 501, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn sandbox_fork(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
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
    let results: Vec<ForkResult> = forks.into_iter().map(convert::fork).collect();
    let made: Vec<&str> = results
        .iter()
        .filter_map(|result| Some(result.sandbox.as_ref()?.sandbox_id.as_str()))
        .collect();
    audit::created(&made.join(","));
    Ok((StatusCode::CREATED, Json(results)))
}

/// Roll a sandbox back to a snapshot
///
/// Memory and disk become those of one of its own snapshots, or of what it was created
/// from. Id, tokens and settings stay.
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
pub(crate) async fn sandbox_rollback(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SandboxPath(id): SandboxPath,
    Body(body): Body<RollbackSandbox>,
) -> Result<Json<Sandbox>> {
    let access = state
        .control
        .sandbox_rollback(&caller, &id, &body.snapshot_id)
        .await?;
    Ok(Json(convert::sandbox(access)))
}

/// Take a snapshot of a running sandbox
///
/// Saves memory and disk, or the disk alone where `memory` is false, as a source for
/// new sandboxes. The sandbox continues to run. A name that is in use gets a new build.
#[utoipa::path(post, path = "/sandboxes/{sandboxID}/snapshots", tag = "snapshots", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<SnapshotSandbox>,
    responses(
        (status = 201, description = "Taken; the sandbox goes on", body = SnapshotInfo),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Does not run, on its way elsewhere, or the name is a template's", body = ApiError),
        (status = 500, body = ApiError), (status = 501, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn snapshot_create(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
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
    audit::created(&view.id);
    Ok((StatusCode::CREATED, Json(convert::snapshot(view))))
}

/// List snapshots
///
/// The snapshots of the team, newest first, in pages. Each is listed once, with its
/// newest build.
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
pub(crate) async fn snapshot_list(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
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
