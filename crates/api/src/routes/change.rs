//! Changing a running sandbox: its time and its network.

use crate::convert;
use crate::error::Result;
use crate::extract::{Body, ForSandboxes, OptionalBody, SandboxPath, SegmentPath, sandbox_id};
use crate::state::AppState;
use axum::extract::State;
use axum::http::StatusCode;
use hearth_wire::{ApiError, NetworkUpdate, RefreshSandbox, TimeoutSandbox};

/// Set the time that a sandbox has left
///
/// The sandbox ends `timeout` seconds from now, which may be earlier than before.
#[utoipa::path(post, path = "/sandboxes/{sandboxID}/timeout", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = TimeoutSandbox,
    responses(
        (status = 204, description = "Ends so many seconds from now"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_set_timeout(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
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

/// Extend the time that a sandbox has left
///
/// The sandbox ends `duration` seconds from now, unless its present end is later.
#[utoipa::path(post, path = "/sandboxes/{sandboxID}/refreshes", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<RefreshSandbox>,
    responses(
        (status = 204, description = "Ends so many seconds from now, or later"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_refresh(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SandboxPath(id): SandboxPath,
    OptionalBody(body): OptionalBody<RefreshSandbox>,
) -> Result<StatusCode> {
    state
        .control
        .sandbox_refresh(&caller, &id, body.duration)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace the network rules of a running sandbox
///
/// Replaces all rules for outgoing traffic; those for incoming traffic stay.
#[utoipa::path(put, path = "/sandboxes/{sandboxID}/network", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = NetworkUpdate,
    responses(
        (status = 204, description = "Replaced"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 409, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_set_network(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
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
