//! Logs of sandboxes, in the shapes of both generations.

use crate::convert;
use crate::error::Result;
use crate::extract::{ForSandboxes, SandboxPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use hearth_control::{LogDirection, LogLevel, LogQuery, MAX_LOG_ENTRIES};
use hearth_wire::{ApiError, SandboxLogs, SandboxLogsV2};

const MAX_LINES: i64 = MAX_LOG_ENTRIES as i64;

/// Get the log of a sandbox
///
/// Entries from `start` on, the oldest first. The log outlives the sandbox for a while.
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
pub(crate) async fn sandbox_logs_v1(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Result<Json<SandboxLogs>> {
    let wanted = LogQuery {
        cursor: milliseconds(&query, "start")?,
        direction: LogDirection::Forward,
        limit: limit(query.integer_within("limit", 0..=i64::from(u32::MAX))?),
        ..LogQuery::default()
    };
    let entries = state.control.sandbox_logs(&caller, &id, wanted).await?;
    Ok(Json(SandboxLogs {
        logs: entries.iter().map(convert::log_line).collect(),
        log_entries: entries.into_iter().map(convert::log_entry).collect(),
    }))
}

/// Search the log of a sandbox
///
/// Entries before or after `cursor`, filtered by level and text. The log outlives the
/// sandbox for a while.
#[utoipa::path(get, path = "/v2/sandboxes/{sandboxID}/logs", tag = "sandboxes", security(("ApiKeyAuth" = [])),
    params(
        ("sandboxID" = String, Path),
        ("cursor" = Option<i64>, Query, description = "Milliseconds since 1970"),
        ("limit" = Option<i64>, Query, description = "At most 1000"),
        ("direction" = Option<String>, Query, description = "`backward`, the default, or `forward`"),
        ("level" = Option<hearth_wire::LogLevel>, Query, description = "The least level"),
        ("search" = Option<String>, Query),
    ),
    responses(
        (status = 200, body = SandboxLogsV2),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn sandbox_logs_v2(
    State(state): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SandboxPath(id): SandboxPath,
    query: Query,
) -> Result<Json<SandboxLogsV2>> {
    let directions = [
        ("forward", LogDirection::Forward),
        ("backward", LogDirection::Backward),
    ];
    let levels = [
        ("debug", LogLevel::Debug),
        ("info", LogLevel::Info),
        ("warn", LogLevel::Warn),
        ("error", LogLevel::Error),
    ];
    let wanted = LogQuery {
        cursor: milliseconds(&query, "cursor")?,
        direction: query.word("direction", &directions)?.unwrap_or_default(),
        limit: limit(query.integer_within("limit", 0..=MAX_LINES)?),
        least_level: query.word("level", &levels)?,
        search: query.text("search").map(str::to_owned),
    };
    let entries = state.control.sandbox_logs(&caller, &id, wanted).await?;
    Ok(Json(SandboxLogsV2 {
        logs: entries.into_iter().map(convert::log_entry).collect(),
    }))
}

/// Times beyond what a calendar holds are as good as its end.
fn milliseconds(query: &Query, name: &'static str) -> Result<Option<DateTime<Utc>>> {
    let value = query.integer_within(name, 0..=i64::MAX)?;
    Ok(value
        .map(|value| DateTime::from_timestamp_millis(value).unwrap_or(DateTime::<Utc>::MAX_UTC)))
}

fn limit(asked: Option<i64>) -> usize {
    asked
        .and_then(|asked| usize::try_from(asked).ok())
        .unwrap_or(MAX_LOG_ENTRIES)
        .min(MAX_LOG_ENTRIES)
}
