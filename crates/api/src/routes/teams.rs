//! The team that a key acts for.

use crate::error::{Failure, Result};
use crate::extract::{ApiKey, ForTeam, SegmentPath};
use crate::query::Query;
use crate::source::Source;
use crate::state::AppState;
use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use chrono::Utc;
use hearth_control::{Caller, Error, TeamMetricKind};
use hearth_wire::{ApiError, MaxTeamMetric, Team, TeamMetric};
use secrecy::ExposeSecret;

/// Who asks for the list: a key, which is repeated, or a session, which gets a new one.
pub(crate) struct Asking {
    caller: Caller,
    key: String,
}

impl FromRequestParts<AppState> for Asking {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self> {
        let token = bearer(&parts.headers).map(str::to_owned);
        if let (None, Some(token)) = (parts.headers.get("x-api-key"), token) {
            let caller = state.control.login_caller(&token).await?;
            caller.check_use(Utc::now(), Source::of(&parts.extensions).address())?;
            let key = state.control.login_key(&caller).await?;
            let key = key.expose_secret().to_owned();
            return Ok(Self { caller, key });
        }
        let ForTeam(caller) = ForTeam::from_request_parts(parts, state).await?;
        let ApiKey(key) = ApiKey::from_request_parts(parts, state).await?;
        Ok(Self { caller, key })
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// List the teams of the API key
///
/// A key belongs to one team, so the list has one entry. Whoever has signed in may show
/// the access token instead (`Authorization: Bearer`), and each time gets a new key.
#[utoipa::path(get, path = "/teams", tag = "teams", security(("ApiKeyAuth" = [])),
    responses(
        (status = 200, description = "The key's team, as a list of one", body = Vec<Team>),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn team_list(
    Asking { caller, key }: Asking,
) -> ([(HeaderName, HeaderValue); 1], Json<Vec<Team>>) {
    let team = Team {
        team_id: caller.team_id().to_string(),
        name: caller.team.name.clone(),
        api_key: key,
        is_default: true,
    };
    let headers = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (headers, Json(vec![team]))
}

/// Get how many sandboxes of the team ran
///
/// And how many were started, over the last 7 days where nothing is said. One entry for
/// each 5 seconds of less than an hour, 30 seconds of less than 6 hours, minute of less
/// than 12, 2 minutes of less than a day, 5 minutes of less than 7 days, else 15 minutes.
#[utoipa::path(get, path = "/teams/{teamID}/metrics", tag = "teams", security(("ApiKeyAuth" = [])),
    params(
        ("teamID" = String, Path),
        ("start" = Option<i64>, Query, description = "Seconds since 1970"),
        ("end" = Option<i64>, Query, description = "Seconds since 1970; at most 92 days later"),
    ),
    responses(
        (status = 200, description = "The oldest first", body = Vec<TeamMetric>),
        (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 403, description = "Another team", body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn team_metrics(
    State(state): State<AppState>,
    ForTeam(caller): ForTeam,
    SegmentPath(team): SegmentPath,
    query: Query,
) -> Result<Json<Vec<TeamMetric>>> {
    let (start, end) = (query.unix_time("start")?, query.unix_time("end")?);
    let all = state
        .control
        .team_metrics(&caller, &team, start, end)
        .await?;
    let shown = all.into_iter().map(|metric| TeamMetric {
        timestamp: metric.at,
        timestamp_unix: metric.at.timestamp(),
        concurrent_sandboxes: metric.concurrent_sandboxes,
        sandbox_start_rate: metric.sandbox_start_rate,
    });
    Ok(Json(shown.collect()))
}

/// Get the most sandboxes of the team
///
/// That ran at the same time, or that were started per second within a step as the
/// metrics have; and when that was first.
#[utoipa::path(get, path = "/teams/{teamID}/metrics/max", tag = "teams", security(("ApiKeyAuth" = [])),
    params(
        ("teamID" = String, Path),
        ("metric" = String, Query, description = "`concurrent_sandboxes` or `sandbox_start_rate`"),
        ("start" = Option<i64>, Query, description = "Seconds since 1970"),
        ("end" = Option<i64>, Query, description = "Seconds since 1970; at most 92 days later"),
    ),
    responses(
        (status = 200, body = MaxTeamMetric),
        (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 403, description = "Another team", body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn team_metrics_max(
    State(state): State<AppState>,
    ForTeam(caller): ForTeam,
    SegmentPath(team): SegmentPath,
    query: Query,
) -> Result<Json<MaxTeamMetric>> {
    let kinds = [
        ("concurrent_sandboxes", TeamMetricKind::ConcurrentSandboxes),
        ("sandbox_start_rate", TeamMetricKind::SandboxStartRate),
    ];
    let kind = query.word("metric", &kinds)?.ok_or_else(|| {
        Error::invalid(
            "metric",
            "must be concurrent_sandboxes or sandbox_start_rate",
        )
    })?;
    let (start, end) = (query.unix_time("start")?, query.unix_time("end")?);
    let most = state
        .control
        .team_metrics_max(&caller, &team, kind, start, end);
    let (at, value) = most.await?;
    Ok(Json(MaxTeamMetric {
        timestamp: at,
        timestamp_unix: at.timestamp(),
        value,
    }))
}
