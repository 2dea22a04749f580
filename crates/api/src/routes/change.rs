//! Changing a running sandbox: its time and its network.

use crate::convert;
use crate::error::Result;
use crate::extract::{Authenticated, Body, OptionalBody, SandboxPath, SegmentPath, sandbox_id};
use crate::state::AppState;
use axum::extract::State;
use axum::http::StatusCode;
use hearth_wire::{ApiError, NetworkUpdate, RefreshSandbox, TimeoutSandbox};

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/timeout", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = TimeoutSandbox,
    responses(
        (status = 204, description = "Ends so many seconds from now"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn timeout(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SegmentPath(id): SegmentPath,
    Body(body): Body<TimeoutSandbox>,
) -> Result<StatusCode> {
    caller.check_timeout(body.timeout)?;
    let id = sandbox_id(&id)?;
    state
        .control
        .sandbox_set_timeout(&caller, &id, body.timeout)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(post, path = "/sandboxes/{sandboxID}/refreshes", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<RefreshSandbox>,
    responses(
        (status = 204, description = "Ends so many seconds from now, or later"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn refresh(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    OptionalBody(body): OptionalBody<RefreshSandbox>,
) -> Result<StatusCode> {
    state
        .control
        .sandbox_refresh(&caller, &id, body.duration)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(put, path = "/sandboxes/{sandboxID}/network", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = NetworkUpdate,
    responses(
        (status = 204, description = "Replaced"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 409, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn network(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    Body(body): Body<NetworkUpdate>,
) -> Result<StatusCode> {
    let update = convert::network_update(body);
    state
        .control
        .sandbox_set_network(&caller, &id, update)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
