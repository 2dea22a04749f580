//! What was used, for teams and for operators, as JSON or as comma-separated values.

use crate::error::Result;
use crate::extract::{ForTeam, Operator};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use hearth_control::{Error, Span, Usage, usage_of_sandboxes, usage_of_teams, usage_span};
use hearth_ids::{SandboxId, TeamId};
use hearth_wire::{ApiError, SandboxUsage, TeamUsage};

const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8");

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Csv,
}

fn form(query: &Query) -> Result<Form> {
    let forms = [("json", Form::Json), ("csv", Form::Csv)];
    Ok(query.word("format", &forms)?.unwrap_or(Form::Json))
}

fn span(query: &Query) -> Result<Span> {
    let (start, end) = (query.unix_time("start")?, query.unix_time("end")?);
    Ok(usage_span(start, end, Utc::now())?)
}

fn shown(usage: Usage) -> hearth_wire::Usage {
    hearth_wire::Usage {
        executions: usage.executions,
        vcpu_seconds: usage.vcpu_seconds(),
        memory_gib_seconds: usage.memory_gib_seconds(),
    }
}

fn of_team(team: TeamId, span: Span, usage: Usage) -> TeamUsage {
    TeamUsage {
        team_id: team.to_string(),
        start: span.start,
        end: span.end,
        usage: shown(usage),
    }
}

/// Rows of ids and what was used. No id holds what would need quotes.
fn csv<'a>(name: &str, rows: impl Iterator<Item = (&'a str, hearth_wire::Usage)>) -> Response {
    let mut text = format!("{name},executions,vcpuSeconds,memoryGiBSeconds\r\n");
    for (id, usage) in rows {
        text.push_str(&format!(
            "{id},{},{},{}\r\n",
            usage.executions, usage.vcpu_seconds, usage.memory_gib_seconds
        ));
    }
    ([(CONTENT_TYPE, CSV)], text).into_response()
}

fn teams(all: Vec<TeamUsage>, form: Form) -> Response {
    match form {
        Form::Json => Json(all).into_response(),
        Form::Csv => {
            let rows = all.iter().map(|used| (used.team_id.as_str(), used.usage));
            csv("teamID", rows)
        }
    }
}

/// Get what the team used
///
/// Processors and memory of running sandboxes over time. Without `start` since the
/// beginning of the month in UTC; what still runs counts up to now.
#[utoipa::path(get, path = "/usage", tag = "usage", security(("ApiKeyAuth" = [])),
    params(
        ("start" = Option<i64>, Query, description = "Seconds since 1970"),
        ("end" = Option<i64>, Query, description = "Seconds since 1970; now where left out or later"),
        ("format" = Option<String>, Query, description = "`json` or `csv`"),
    ),
    responses(
        (status = 200, description = "JSON, or text/csv with a header line", body = TeamUsage),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn usage_get(
    State(state): State<AppState>,
    ForTeam(caller): ForTeam,
    query: Query,
) -> Result<Response> {
    let (span, form) = (span(&query)?, form(&query)?);
    let team = caller.team_id();
    let found = usage_of_teams(state.control.store().as_ref(), span, Some(team)).await?;
    let used = found.first().map_or_else(Usage::default, |(_, used)| *used);
    let used = of_team(team, span, used);
    Ok(match form {
        Form::Json => Json(used).into_response(),
        Form::Csv => teams(vec![used], form),
    })
}

/// Get what each sandbox of the team used
///
/// By their IDs, those that are gone among them. The time is as for the team.
#[utoipa::path(get, path = "/usage/sandboxes", tag = "usage", security(("ApiKeyAuth" = [])),
    params(
        ("start" = Option<i64>, Query, description = "Seconds since 1970"),
        ("end" = Option<i64>, Query, description = "Seconds since 1970; now where left out or later"),
        ("format" = Option<String>, Query, description = "`json` or `csv`"),
        ("limit" = Option<u32>, Query, description = "1 to 1000, 100 where left out"),
        ("nextToken" = Option<String>, Query, description = "Of the page before"),
    ),
    responses(
        (status = 200, description = "JSON, or text/csv with a header line", body = Vec<SandboxUsage>, headers(
            ("X-Next-Token" = String, description = "Of the next page, where there is one"))),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn usage_sandboxes(
    State(state): State<AppState>,
    ForTeam(caller): ForTeam,
    query: Query,
) -> Result<Response> {
    let (span, form) = (span(&query)?, form(&query)?);
    let limit = query.integer_within("limit", 1..=1000)?.unwrap_or(100);
    let limit = u32::try_from(limit).unwrap_or(1000);
    let after = query.text("nextToken").map(str::parse::<SandboxId>);
    let invalid = |_| Error::new(hearth_control::Kind::Invalid, "Invalid next token");
    let after = after.transpose().map_err(invalid)?;
    let store = state.control.store().as_ref();
    let found = usage_of_sandboxes(store, span, caller.team_id(), after.as_ref(), limit).await?;
    let full = found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let all: Vec<SandboxUsage> = found
        .into_iter()
        .map(|(id, used)| SandboxUsage {
            sandbox_id: id.to_string(),
            usage: shown(used),
        })
        .collect();
    let next = all.last().filter(|_| full);
    let next = next.and_then(|last| HeaderValue::from_str(&last.sandbox_id).ok());
    let mut response = match form {
        Form::Json => Json(&all).into_response(),
        Form::Csv => {
            let rows = all
                .iter()
                .map(|used| (used.sandbox_id.as_str(), used.usage));
            csv("sandboxID", rows)
        }
    };
    if let Some(next) = next {
        response.headers_mut().insert(NEXT_TOKEN, next);
    }
    Ok(response)
}

/// Get what all teams used
///
/// Teams that used nothing are left out, those that are deleted are not.
#[utoipa::path(get, path = "/admin/usage", tag = "admin", security(("AdminToken" = [])),
    params(
        ("start" = Option<i64>, Query, description = "Seconds since 1970"),
        ("end" = Option<i64>, Query, description = "Seconds since 1970; now where left out or later"),
        ("format" = Option<String>, Query, description = "`json` or `csv`"),
    ),
    responses(
        (status = 200, description = "JSON, or text/csv with a header line", body = Vec<TeamUsage>),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn admin_usage(
    State(state): State<AppState>,
    _operator: Operator,
    query: Query,
) -> Result<Response> {
    let (span, form) = (span(&query)?, form(&query)?);
    let found = usage_of_teams(state.control.store().as_ref(), span, None).await?;
    let all = found
        .into_iter()
        .map(|(team, used)| of_team(team, span, used));
    Ok(teams(all.collect(), form))
}
