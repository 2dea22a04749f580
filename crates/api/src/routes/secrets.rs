//! Secrets of a team. No answer holds a value, and none may be kept by caches.

use super::list::next_token;
use crate::audit;
use crate::error::Result;
use crate::extract::{Body, ForSecrets, SegmentPath};
use crate::query::Query;
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use hearth_control::SecretInfo;
use hearth_wire::{ApiError, NewSecret, Secret, SecretUpdate};

fn no_store() -> HeaderMap {
    HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))])
}

fn secret(info: SecretInfo) -> Secret {
    Secret {
        secret_id: info.id,
        name: info.name,
        current_version: info.version,
        metadata: info.metadata,
        created_at: info.created_at,
        updated_at: info.updated_at,
    }
}

/// List secrets
///
/// Names, versions and metadata, newest first, in pages. No answer holds a value.
#[utoipa::path(get, path = "/secrets", tag = "secrets", security(("ApiKeyAuth" = [])),
    params(
        ("nextToken" = Option<String>, Query),
        ("limit" = Option<i64>, Query, description = "1 to 100, the default"),
    ),
    responses(
        (status = 200, description = "A page, newest first, without values", body = Vec<Secret>, headers(
            ("X-Next-Token" = String, description = "Where there is a next page"),
        )),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn secret_list(
    State(state): State<AppState>,
    ForSecrets(caller): ForSecrets,
    query: Query,
) -> Result<(HeaderMap, Json<Vec<Secret>>)> {
    let page = state.control.secret_list(&caller, &query.page()?).await?;
    let mut headers = no_store();
    next_token(&mut headers, page.next_token)?;
    let secrets = page.entries.into_iter().map(secret).collect();
    Ok((headers, Json(secrets)))
}

/// Create a secret
///
/// Network rules insert the value into requests of sandboxes; no answer holds it.
#[utoipa::path(post, path = "/secrets", tag = "secrets", security(("ApiKeyAuth" = [])),
    request_body = NewSecret,
    responses(
        (status = 201, body = Secret),
        (status = 400, body = ApiError), (status = 401, body = ApiError),
        (status = 409, description = "There is a secret of this name, or there are as many as there may be", body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn secret_create(
    State(state): State<AppState>,
    ForSecrets(caller): ForSecrets,
    Body(body): Body<NewSecret>,
) -> Result<(StatusCode, HeaderMap, Json<Secret>)> {
    let new = hearth_control::NewSecret {
        name: body.name,
        value: body.value.into(),
        metadata: body.metadata.unwrap_or_default(),
    };
    let info = state.control.secret_create(&caller, new).await?;
    audit::created(&info.id);
    Ok((StatusCode::CREATED, no_store(), Json(secret(info))))
}

/// Get a secret
///
/// Name, version and metadata, without the value.
#[utoipa::path(get, path = "/secrets/{secretID}", tag = "secrets", security(("ApiKeyAuth" = [])),
    params(("secretID" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Secret),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn secret_get(
    State(state): State<AppState>,
    ForSecrets(caller): ForSecrets,
    SegmentPath(key): SegmentPath,
) -> Result<(HeaderMap, Json<Secret>)> {
    let info = state.control.secret_info(&caller, &key).await?;
    Ok((no_store(), Json(secret(info))))
}

/// Replace the value of a secret
///
/// Stores a new version of the value, and new metadata where it is given.
#[utoipa::path(post, path = "/secrets/{secretID}", tag = "secrets", security(("ApiKeyAuth" = [])),
    params(("secretID" = String, Path, description = "Id or name")),
    request_body = SecretUpdate,
    responses(
        (status = 200, description = "The value is replaced", body = Secret),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 404, body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn secret_update(
    State(state): State<AppState>,
    ForSecrets(caller): ForSecrets,
    SegmentPath(key): SegmentPath,
    Body(body): Body<SecretUpdate>,
) -> Result<(HeaderMap, Json<Secret>)> {
    let update = hearth_control::SecretUpdate {
        value: body.value.into(),
        metadata: body.metadata,
    };
    let info = state.control.secret_update(&caller, &key, update).await?;
    Ok((no_store(), Json(secret(info))))
}

/// Delete a secret
///
/// Deletes its value. Network rules that name it can no longer be filled in.
#[utoipa::path(delete, path = "/secrets/{secretID}", tag = "secrets", security(("ApiKeyAuth" = [])),
    params(("secretID" = String, Path, description = "Id or name")),
    responses(
        (status = 204, description = "Forgotten"),
        (status = 401, body = ApiError), (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn secret_delete(
    State(state): State<AppState>,
    ForSecrets(caller): ForSecrets,
    SegmentPath(key): SegmentPath,
) -> Result<StatusCode> {
    state.control.secret_destroy(&caller, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}
