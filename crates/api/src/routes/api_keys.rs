//! The API keys of a team. No list holds a key.

use crate::audit;
use crate::error::{Result, plain_not_found};
use crate::extract::{Body, ForApiKeys, SegmentPath};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use hearth_control::{ApiKey, Error, KeyGrant, Kind, Scope, keys};
use hearth_wire::{
    ApiError, ApiKeyMask, CreatedApiKey, NewApiKey, TeamApiKey, UpdateApiKey, parse_rfc3339,
};
use secrecy::ExposeSecret;
use uuid::Uuid;

/// The body of the contract's 404, which is no JSON.
pub(super) const NO_SUCH_KEY: &str = "id not found";

pub(super) fn key_id(text: &str) -> Result<Uuid> {
    text.parse().map_err(|error| {
        let message = format!("Error when parsing API key ID: {error}");
        Error::new(Kind::Invalid, message).into()
    })
}

pub(super) fn shown(key: ApiKey) -> TeamApiKey {
    let scopes = key.grant.scopes.iter();
    TeamApiKey {
        id: key.id.to_string(),
        name: key.name,
        mask: ApiKeyMask {
            prefix: key.mask.prefix,
            value_length: key.mask.value_length,
            masked_value_prefix: key.mask.first,
            masked_value_suffix: key.mask.last,
        },
        created_at: key.created_at,
        created_by: None,
        last_used: key.last_used_at,
        scopes: scopes.map(|scope| scope.as_str().to_owned()).collect(),
        read_only: key.grant.read_only,
        expires_at: key.grant.expires_at,
        networks: key.grant.networks.iter().map(ToString::to_string).collect(),
    }
}

/// What is not said is as it is for the key that asks.
pub(super) fn grant(body: &NewApiKey, own: &KeyGrant) -> Result<KeyGrant> {
    let mut grant = own.clone();
    grant.read_only = body.read_only.unwrap_or(own.read_only);
    if let Some(scopes) = &body.scopes {
        let scopes = scopes.iter().map(|text| {
            Scope::parse(text).ok_or_else(|| {
                let why = format!("{text:?} is none of sandboxes, templates, secrets, admin");
                Error::invalid("scopes", why)
            })
        });
        grant.scopes = scopes.collect::<std::result::Result<_, _>>()?;
    }
    if let Some(text) = &body.expires_at {
        let time = parse_rfc3339(text);
        let time = time.ok_or_else(|| Error::invalid("expiresAt", "is no RFC 3339 time"))?;
        grant.expires_at = Some(time);
    }
    if body.networks.is_some() {
        grant.networks.clear();
    }
    for text in body.networks.iter().flatten() {
        let network = text.parse();
        let why = format!("{text:?} is no network such as 198.51.100.0/24");
        let network = network.map_err(|_| Error::invalid("networks", why))?;
        grant.networks.push(network);
    }
    Ok(grant)
}

/// List the API keys of the team
///
/// Oldest first and masked, those whose time is over among them.
#[utoipa::path(get, path = "/api-keys", tag = "api-keys", security(("ApiKeyAuth" = [])),
    responses(
        (status = 200, body = Vec<TeamApiKey>),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn api_key_list(
    State(state): State<AppState>,
    ForApiKeys(caller): ForApiKeys,
) -> Result<Json<Vec<TeamApiKey>>> {
    let keys = keys::list(state.control.store().as_ref(), caller.team_id()).await?;
    Ok(Json(keys.into_iter().map(shown).collect()))
}

/// Create an API key
///
/// The answer alone holds the key. What is left out is as it is for the key that asks,
/// and nothing may go beyond that.
#[utoipa::path(post, path = "/api-keys", tag = "api-keys", security(("ApiKeyAuth" = [])),
    request_body = NewApiKey,
    responses(
        (status = 201, body = CreatedApiKey),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn api_key_create(
    State(state): State<AppState>,
    ForApiKeys(caller): ForApiKeys,
    Body(body): Body<NewApiKey>,
) -> Result<(StatusCode, HeaderMap, Json<CreatedApiKey>)> {
    let grant = grant(&body, &caller.grant)?;
    caller.may_grant(&grant)?;
    let store = state.control.store().as_ref();
    let (key, secret) = keys::issue(store, caller.team_id(), &body.name, grant).await?;
    audit::created(&key.id.to_string());
    let created = CreatedApiKey {
        key: secret.expose_secret().to_owned(),
        shown: shown(key),
    };
    let no_store = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    Ok((StatusCode::CREATED, no_store, Json(created)))
}

/// Rename an API key
///
/// What it may be used for stays.
#[utoipa::path(patch, path = "/api-keys/{apiKeyID}", tag = "api-keys", security(("ApiKeyAuth" = [])),
    params(("apiKeyID" = String, Path)),
    request_body = UpdateApiKey,
    responses(
        (status = 202, description = "Renamed"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, description = "There is no such key", body = String, content_type = "text/plain"),
        (status = 500, body = ApiError),
))]
pub(crate) async fn api_key_update(
    State(state): State<AppState>,
    ForApiKeys(caller): ForApiKeys,
    SegmentPath(id): SegmentPath,
    Body(body): Body<UpdateApiKey>,
) -> Result<StatusCode> {
    let store = state.control.store().as_ref();
    let renamed = keys::rename(store, caller.team_id(), key_id(&id)?, &body.name).await;
    renamed.map_err(plain_not_found(NO_SUCH_KEY))?;
    Ok(StatusCode::ACCEPTED)
}

/// Delete an API key
///
/// Its requests are refused at once by the process that is asked, by others within
/// seconds.
#[utoipa::path(delete, path = "/api-keys/{apiKeyID}", tag = "api-keys", security(("ApiKeyAuth" = [])),
    params(("apiKeyID" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, description = "There is no such key", body = String, content_type = "text/plain"),
        (status = 500, body = ApiError),
))]
pub(crate) async fn api_key_delete(
    State(state): State<AppState>,
    ForApiKeys(caller): ForApiKeys,
    SegmentPath(id): SegmentPath,
) -> Result<StatusCode> {
    let id = key_id(&id)?;
    let revoked = state.control.key_revoke(caller.team_id(), id).await;
    revoked.map_err(plain_not_found(NO_SUCH_KEY))?;
    Ok(StatusCode::NO_CONTENT)
}
