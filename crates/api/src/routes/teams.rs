//! The team that a key acts for.

use crate::error::Result;
use crate::extract::{ApiKey, ForTeam};
use axum::Json;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use hearth_wire::{ApiError, Team};

/// List the teams of the API key
///
/// A key belongs to one team, so the list has one entry.
#[utoipa::path(get, path = "/teams", tag = "teams", security(("ApiKeyAuth" = [])),
    responses(
        (status = 200, description = "The key's team, as a list of one", body = Vec<Team>),
        (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn team_list(
    ForTeam(caller): ForTeam,
    ApiKey(key): ApiKey,
) -> Result<([(HeaderName, HeaderValue); 1], Json<Vec<Team>>)> {
    let team = Team {
        team_id: caller.team_id().to_string(),
        name: caller.team.name.clone(),
        api_key: key,
        is_default: true,
    };
    let headers = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, Json(vec![team])))
}
