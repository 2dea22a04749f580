//! What operators do to teams, behind the one token that stands above all of them.

use super::api_keys;
use crate::audit;
use crate::error::{Result, plain_not_found};
use crate::extract::{Body, Operator, SegmentPath};
use crate::state::AppState;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use hearth_control::{Error, LimitsSetBy, Team, TeamChange, TeamLimits};
use hearth_ids::TeamId;
use hearth_wire::{
    ApiError, CancelledBuilds, CreatedApiKey, KilledSandboxes, NewApiKey, NewTeam, TeamAllocated,
    TeamDetail, TeamLimitsChange, UpdateTeam,
};
use secrecy::ExposeSecret;
use std::collections::BTreeMap;

/// What is no id names no team: 404.
fn team_id(text: &str) -> Result<TeamId> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(64).collect();
        Error::not_found(format!("There is no team {shown:?}")).into()
    })
}

fn shown(team: Team) -> TeamDetail {
    let limits = team.limits;
    TeamDetail {
        team_id: team.id.to_string(),
        slug: team.slug,
        name: team.name,
        limits: hearth_wire::TeamLimits {
            concurrent_sandboxes: limits.max_concurrent_sandboxes,
            max_length_hours: limits.max_length_hours,
            max_vcpus: limits.max_vcpus,
            max_memory_mib: limits.max_memory_mib,
            max_disk_mib: limits.max_disk_mib,
            total_vcpus: limits.max_total_vcpus,
            total_memory_mib: limits.max_total_memory_mib,
            paused_sandboxes: limits.max_paused_sandboxes,
            snapshots: limits.max_snapshots,
            templates: limits.max_templates,
            volumes: limits.max_volumes,
            stored_mib: limits.max_stored_mib,
        },
        allocated: None,
        limits_set_by: match team.limits_set_by {
            LimitsSetBy::Settings => "settings",
            LimitsSetBy::Operator => "operator",
        },
        banned: team.banned,
        blocked_reason: team.blocked_reason,
        created_at: team.created_at,
    }
}

fn changed(limits: TeamLimits, change: &TeamLimitsChange) -> TeamLimits {
    let or = |new: Option<u32>, old| new.unwrap_or(old);
    TeamLimits {
        max_concurrent_sandboxes: or(change.concurrent_sandboxes, limits.max_concurrent_sandboxes),
        max_length_hours: or(change.max_length_hours, limits.max_length_hours),
        max_vcpus: or(change.max_vcpus, limits.max_vcpus),
        max_memory_mib: or(change.max_memory_mib, limits.max_memory_mib),
        max_disk_mib: or(change.max_disk_mib, limits.max_disk_mib),
        max_total_vcpus: or(change.total_vcpus, limits.max_total_vcpus),
        max_total_memory_mib: or(change.total_memory_mib, limits.max_total_memory_mib),
        max_paused_sandboxes: or(change.paused_sandboxes, limits.max_paused_sandboxes),
        max_snapshots: or(change.snapshots, limits.max_snapshots),
        max_templates: or(change.templates, limits.max_templates),
        max_volumes: or(change.volumes, limits.max_volumes),
        max_stored_mib: or(change.stored_mib, limits.max_stored_mib),
    }
}

/// List all teams
///
/// With what each may use, by their slugs.
#[utoipa::path(get, path = "/admin/teams", tag = "admin", security(("AdminToken" = [])),
    responses(
        (status = 200, body = Vec<TeamDetail>),
        (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn admin_team_list(
    State(state): State<AppState>,
    _operator: Operator,
) -> Result<Json<Vec<TeamDetail>>> {
    let teams = state.control.team_list().await?;
    Ok(Json(teams.into_iter().map(shown).collect()))
}

/// Create a team
///
/// It has no key yet. Limits that are left out are those of the first team.
#[utoipa::path(post, path = "/admin/teams", tag = "admin", security(("AdminToken" = [])),
    request_body = NewTeam,
    responses(
        (status = 201, body = TeamDetail),
        (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 409, description = "There is a team of this slug", body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn admin_team_create(
    State(state): State<AppState>,
    _operator: Operator,
    Body(body): Body<NewTeam>,
) -> Result<(StatusCode, Json<TeamDetail>)> {
    audit::object(&body.slug);
    let mut team = state.control.team_create(&body.slug).await?;
    audit::created(&team.id.to_string());
    if let Some(change) = &body.limits {
        let change = TeamChange {
            limits: Some(changed(team.limits, change)),
            ..TeamChange::default()
        };
        team = state.control.team_change(team.id, change).await?;
    }
    Ok((StatusCode::CREATED, Json(shown(team))))
}

/// Get a team
///
/// With what it may use, and what its sandboxes and builds take now.
#[utoipa::path(get, path = "/admin/teams/{teamID}", tag = "admin", security(("AdminToken" = [])),
    params(("teamID" = String, Path)),
    responses(
        (status = 200, body = TeamDetail),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
        (status = 503, body = ApiError), (status = 504, body = ApiError),
))]
pub(crate) async fn admin_team_get(
    State(state): State<AppState>,
    _operator: Operator,
    SegmentPath(team): SegmentPath,
) -> Result<Json<TeamDetail>> {
    let team = state.control.team(team_id(&team)?).await?;
    let sum = state.control.team_allocated(team.id).await?;
    Ok(Json(TeamDetail {
        allocated: Some(TeamAllocated {
            running_sandboxes: sum.running_sandboxes,
            vcpus: sum.vcpus,
            memory_mib: sum.memory_mib,
            paused_sandboxes: sum.paused_sandboxes,
            disk_mib: sum.disk_mib,
            stored_bytes: sum.stored_bytes,
        }),
        ..shown(team)
    }))
}

/// Change what a team may do
///
/// Its limits, and whether it is banned or blocked. Holds at once in the process that is
/// asked, within seconds in others. The sandboxes of a banned team run on.
#[utoipa::path(patch, path = "/admin/teams/{teamID}", tag = "admin", security(("AdminToken" = [])),
    params(("teamID" = String, Path)),
    request_body = UpdateTeam,
    responses(
        (status = 200, body = TeamDetail),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn admin_team_update(
    State(state): State<AppState>,
    _operator: Operator,
    SegmentPath(team): SegmentPath,
    Body(body): Body<UpdateTeam>,
) -> Result<Json<TeamDetail>> {
    let id = team_id(&team)?;
    let team = state.control.team(id).await?;
    let change = TeamChange {
        limits: body.limits.map(|change| changed(team.limits, &change)),
        banned: body.banned,
        blocked_reason: body.blocked_reason,
    };
    Ok(Json(shown(state.control.team_change(id, change).await?)))
}

/// Delete a team
///
/// With its API keys and secrets. It must have no sandboxes, templates and volumes.
#[utoipa::path(delete, path = "/admin/teams/{teamID}", tag = "admin", security(("AdminToken" = [])),
    params(("teamID" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 409, description = "Something of it is left", body = ApiError),
        (status = 500, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn admin_team_delete(
    State(state): State<AppState>,
    _operator: Operator,
    SegmentPath(team): SegmentPath,
) -> Result<StatusCode> {
    state.control.team_remove(team_id(&team)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Kill all sandboxes of a team
///
/// Paused ones among them. Answers when all of them are gone, or could not be ended.
#[utoipa::path(post, path = "/admin/teams/{teamID}/sandboxes/kill", tag = "admin", security(("AdminToken" = [])),
    params(("teamID" = String, Path)),
    responses(
        (status = 200, body = KilledSandboxes),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
        (status = 503, body = ApiError),
))]
pub(crate) async fn admin_sandboxes_kill(
    State(state): State<AppState>,
    _operator: Operator,
    SegmentPath(team): SegmentPath,
) -> Result<Json<KilledSandboxes>> {
    let done = state.control.team_sandboxes_kill(team_id(&team)?).await?;
    Ok(Json(KilledSandboxes {
        killed_count: done.ended,
        failed_count: done.failed,
    }))
}

/// Cancel all template builds of a team
///
/// Those that wait and those that run.
#[utoipa::path(post, path = "/admin/teams/{teamID}/builds/cancel", tag = "admin", security(("AdminToken" = [])),
    params(("teamID" = String, Path)),
    responses(
        (status = 200, body = CancelledBuilds),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn admin_builds_cancel(
    State(state): State<AppState>,
    _operator: Operator,
    SegmentPath(team): SegmentPath,
) -> Result<Json<CancelledBuilds>> {
    let done = state.control.team_builds_cancel(team_id(&team)?).await?;
    Ok(Json(CancelledBuilds {
        cancelled_count: done.ended,
        failed_count: done.failed,
    }))
}

/// Count the running sandboxes of all teams
///
/// By team ID; teams without any are left out. At most 5 seconds old.
#[utoipa::path(get, path = "/admin/sandboxes/running-counts", tag = "admin", security(("AdminToken" = [])),
    responses(
        (status = 200, body = BTreeMap<String, usize>),
        (status = 401, body = ApiError), (status = 500, body = ApiError), (status = 503, body = ApiError),
))]
pub(crate) async fn admin_running_counts(
    State(state): State<AppState>,
    _operator: Operator,
) -> Result<Json<BTreeMap<String, usize>>> {
    let counts = state.control.running_counts().await?;
    let counts = counts.into_iter().map(|(team, n)| (team.to_string(), n));
    Ok(Json(counts.collect()))
}

/// Create an API key of a team
///
/// The answer alone holds the key. What is left out of its grant is everything, for ever,
/// from everywhere.
#[utoipa::path(post, path = "/admin/teams/{teamID}/api-keys", tag = "admin", security(("AdminToken" = [])),
    params(("teamID" = String, Path)),
    request_body = NewApiKey,
    responses(
        (status = 201, body = CreatedApiKey),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn admin_api_key_create(
    State(state): State<AppState>,
    _operator: Operator,
    SegmentPath(team): SegmentPath,
    Body(body): Body<NewApiKey>,
) -> Result<(StatusCode, HeaderMap, Json<CreatedApiKey>)> {
    let grant = api_keys::grant(&body, &hearth_control::KeyGrant::default())?;
    let id = team_id(&team)?;
    let (key, secret) = state.control.team_key_create(id, &body.name, grant).await?;
    audit::created(&key.id.to_string());
    let created = CreatedApiKey {
        key: secret.expose_secret().to_owned(),
        shown: api_keys::shown(key),
    };
    let no_store = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    Ok((StatusCode::CREATED, no_store, Json(created)))
}

/// Delete an API key of a team
///
/// Its requests are refused at once by the process that is asked, by others within
/// seconds.
#[utoipa::path(delete, path = "/admin/teams/{teamID}/api-keys/{apiKeyID}", tag = "admin", security(("AdminToken" = [])),
    params(("teamID" = String, Path), ("apiKeyID" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn admin_api_key_delete(
    State(state): State<AppState>,
    _operator: Operator,
    Path((team, key)): Path<(String, String)>,
) -> Result<StatusCode> {
    let (team, key) = (team_id(&team)?, api_keys::key_id(&key)?);
    let revoked = state.control.key_revoke(team, key).await;
    revoked.map_err(plain_not_found(api_keys::NO_SUCH_KEY))?;
    Ok(StatusCode::NO_CONTENT)
}
