//! Making sandboxes, looking at one, connecting to it, ending it.

use crate::audit;
use crate::convert::{self, Generation};
use crate::error::Result;
use crate::extract::{Body, ForSandboxes, OptionalBody, SandboxPath, SegmentPath, sandbox_id};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use hearth_control::{Access, Action, Caller, ConnectRequest, Error, IdempotencyKey, Resource};
use hearth_wire::{ApiError, ConnectSandbox, NewSandbox, Sandbox, SandboxDetail};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Create a sandbox
///
/// Starts a sandbox from a template or a snapshot and answers once its agent is ready.
/// `timeout` defaults to 15 seconds.
#[utoipa::path(post, path = "/sandboxes", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request once, however often it is sent")),
    request_body = NewSandbox,
    responses(
        (status = 201, description = "Created; `timeout` defaults to 15 seconds", body = Sandbox),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 409, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn sandbox_create_v1(
    State(state): State<AppState>,
    caller: ForSandboxes,
    headers: HeaderMap,
    Body(body): Body<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>)> {
    create(state, caller, &headers, body, Generation::First).await
}

/// Create a sandbox, with the defaults of the second version
///
/// Starts a sandbox from a template or a snapshot and answers once its agent is ready.
/// `timeout` defaults to 300 seconds.
#[utoipa::path(post, path = "/v2/sandboxes", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes the request once, however often it is sent")),
    request_body = NewSandbox,
    responses(
        (status = 201, description = "Created; `timeout` defaults to 300 seconds", body = Sandbox),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 409, body = ApiError), (status = 422, body = ApiError),
        (status = 429, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
        (status = 504, body = ApiError),
))]
pub(crate) async fn sandbox_create_v2(
    State(state): State<AppState>,
    caller: ForSandboxes,
    headers: HeaderMap,
    Body(body): Body<NewSandbox>,
) -> Result<(StatusCode, Json<Sandbox>)> {
    create(state, caller, &headers, body, Generation::Second).await
}

async fn create(
    state: AppState,
    ForSandboxes(caller): ForSandboxes,
    headers: &HeaderMap,
    body: NewSandbox,
    generation: Generation,
) -> Result<(StatusCode, Json<Sandbox>)> {
    let key = idempotency_key(headers)?;
    let request = convert::new_sandbox(body, generation);
    let access = state.control.sandbox_create(&caller, request, key).await?;
    let sandbox = convert::sandbox(access);
    audit::created(&sandbox.sandbox_id);
    Ok((StatusCode::CREATED, Json(sandbox)))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>> {
    match headers.get(IDEMPOTENCY_KEY) {
        None => Ok(None),
        // What is no text is no key: the empty one is refused in its place.
        Some(value) => Ok(Some(IdempotencyKey::parse(
            value.to_str().unwrap_or_default(),
        )?)),
    }
}

/// Get a sandbox
///
/// State, template, resources, metadata, network and lifecycle settings of one running
/// or paused sandbox.
#[utoipa::path(get, path = "/sandboxes/{sandboxID}", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    responses(
        (status = 200, body = SandboxDetail),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_get(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SandboxPath(id): SandboxPath,
) -> Result<Json<SandboxDetail>> {
    let mut view = state.control.sandbox(&caller, &id).await?;
    let change = Action {
        resource: Resource::Sandboxes,
        access: Access::Change,
    };
    if caller.may(change).is_err() {
        // With these one could do in the sandbox whatever one may not do to it.
        view.access.envd_access_token = None;
        view.access.traffic_access_token = None;
    }
    Ok(Json(convert::sandbox_detail(view)))
}

/// Kill a sandbox
///
/// Ends a sandbox in any state and deletes its disk and saved memory. Snapshots that
/// were taken of it stay.
#[utoipa::path(delete, path = "/sandboxes/{sandboxID}", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    responses(
        (status = 204, description = "Ended"),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_delete(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SandboxPath(id): SandboxPath,
) -> Result<StatusCode> {
    state.control.sandbox_delete(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Connect to a sandbox, resuming it if it is paused
///
/// Answers with the access tokens of the sandbox, which then lives at least `timeout`
/// seconds from now. `timeout` is required.
#[utoipa::path(post, path = "/sandboxes/{sandboxID}/connect", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = ConnectSandbox,
    responses(
        (status = 200, description = "Was running; its time was extended if that was shorter", body = Sandbox),
        (status = 201, description = "Was paused and is resumed", body = Sandbox),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 429, body = ApiError), (status = 500, body = ApiError),
        (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn sandbox_connect_v1(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SegmentPath(id): SegmentPath,
    Body(body): Body<ConnectSandbox>,
) -> Result<(StatusCode, Json<Sandbox>)> {
    if body.timeout.is_none() {
        return Err(Error::invalid("timeout", "is required").into());
    }
    connect(state, caller, &id, body, Generation::First).await
}

/// Connect to a sandbox, with the defaults of the second version
///
/// Answers with the access tokens of the sandbox, which then lives at least `timeout`
/// seconds from now. `timeout` defaults to 300 seconds and the body may be left out.
#[utoipa::path(post, path = "/v2/sandboxes/{sandboxID}/connect", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(("sandboxID" = String, Path)),
    request_body = Option<ConnectSandbox>,
    responses(
        (status = 200, description = "Was running; its time was extended if that was shorter", body = Sandbox),
        (status = 201, description = "Was paused and is resumed", body = Sandbox),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, body = ApiError), (status = 429, body = ApiError), (status = 500, body = ApiError),
        (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn sandbox_connect_v2(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SegmentPath(id): SegmentPath,
    OptionalBody(body): OptionalBody<ConnectSandbox>,
) -> Result<(StatusCode, Json<Sandbox>)> {
    connect(state, caller, &id, body, Generation::Second).await
}

async fn connect(
    state: AppState,
    caller: Caller,
    id: &str,
    body: ConnectSandbox,
    generation: Generation,
) -> Result<(StatusCode, Json<Sandbox>)> {
    let request = ConnectRequest {
        timeout_seconds: body.timeout.unwrap_or_else(|| generation.default_timeout()),
        memory: body.memory.unwrap_or(true),
    };
    caller.check_timeout(request.timeout_seconds)?;
    let id = sandbox_id(id)?;
    let connected = state.control.sandbox_connect(&caller, &id, request).await?;
    let status = if connected.resumed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(convert::sandbox(connected.access))))
}
