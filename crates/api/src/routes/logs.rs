//! Logs of sandboxes. Nothing collects them, so that there are none: the answers
//! have the contract's shape and no entries.

use crate::error::Result;
use crate::extract::{Authenticated, SandboxPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use hearth_wire::{ApiError, LogLevel, SandboxLogs, SandboxLogsV2};

const MAX_LINES: i64 = 1000;

#[utoipa::path(get, path = "/sandboxes/{sandboxID}/logs", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(
        ("sandboxID" = String, Path),
        ("start" = Option<i64>, Query, description = "Milliseconds since 1970"),
        ("limit" = Option<i64>, Query),
    ),
    responses(
        (status = 200, body = SandboxLogs),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn first(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Result<Json<SandboxLogs>> {
    query.integer_within("start", 0..=i64::MAX)?;
    query.integer_within("limit", 0..=i64::from(u32::MAX))?;
    state.control.sandbox(&caller, &id).await?;
    Ok(Json(SandboxLogs::default()))
}

#[utoipa::path(get, path = "/v2/sandboxes/{sandboxID}/logs", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(
        ("sandboxID" = String, Path),
        ("cursor" = Option<i64>, Query, description = "Milliseconds since 1970"),
        ("limit" = Option<i64>, Query, description = "At most 1000"),
        ("direction" = Option<String>, Query, description = "`backward`, the default, or `forward`"),
        ("level" = Option<LogLevel>, Query, description = "The least level"),
        ("search" = Option<String>, Query),
    ),
    responses(
        (status = 200, body = SandboxLogsV2),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn second(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Result<Json<SandboxLogsV2>> {
    query.integer_within("cursor", 0..=i64::MAX)?;
    query.integer_within("limit", 0..=MAX_LINES)?;
    query.word("direction", &[("forward", ()), ("backward", ())])?;
    let levels = [
        ("debug", LogLevel::Debug),
        ("info", LogLevel::Info),
        ("warn", LogLevel::Warn),
        ("error", LogLevel::Error),
    ];
    query.word("level", &levels)?;
    state.control.sandbox(&caller, &id).await?;
    Ok(Json(SandboxLogsV2::default()))
}
