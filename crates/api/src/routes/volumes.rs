//! Volumes: directory trees that outlive sandboxes.

use crate::audit;
use crate::error::Result;
use crate::extract::{Body, ForSandboxes, SegmentPath};
use crate::state::AppState;
use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use hearth_control::{Access, Error, Kind, VolumeAccess};
use hearth_ids::VolumeId;
use hearth_wire::{
    ApiError, CopyVolume, NewVolume, Volume, VolumeAndToken, VolumeState, VolumeUsage,
};
use secrecy::ExposeSecret;

pub(super) fn volume_id(text: &str) -> Result<VolumeId> {
    text.parse()
        .map_err(|_| Error::new(Kind::Invalid, "Invalid volume ID").into())
}

fn state(state: hearth_control::VolumeState) -> Option<VolumeState> {
    match state {
        hearth_control::VolumeState::Ready => None,
        hearth_control::VolumeState::Making => Some(VolumeState::Making),
        _ => Some(VolumeState::Failed),
    }
}

fn shown(access: VolumeAccess) -> (HeaderMap, Json<VolumeAndToken>) {
    let no_store = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    let body = VolumeAndToken {
        volume_id: access.volume.id.to_string(),
        state: state(access.volume.state),
        name: access.volume.name,
        token: access.token.expose_secret().to_owned(),
    };
    (no_store, Json(body))
}

/// List the volumes of the team
///
/// In order of their names.
#[utoipa::path(get, path = "/volumes", tag = "volumes", security(("ApiKeyAuth" = [])),
    responses(
        (status = 200, body = Vec<Volume>),
        (status = 401, body = ApiError), (status = 403, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn volume_list(
    State(app): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
) -> Result<Json<Vec<Volume>>> {
    let volumes = app.control.volume_list(&caller).await?;
    let volumes = volumes.into_iter().map(|volume| Volume {
        volume_id: volume.id.to_string(),
        state: state(volume.state),
        name: volume.name,
    });
    Ok(Json(volumes.collect()))
}

/// Create a volume
///
/// Empty. Sandboxes mount it by its name (`volumeMounts`).
#[utoipa::path(post, path = "/volumes", tag = "volumes", security(("ApiKeyAuth" = [])),
    request_body = NewVolume,
    responses(
        (status = 201, body = VolumeAndToken),
        (status = 400, description = "The name is none, or is taken", body = ApiError),
        (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 429, description = "The team has as many as it may have", body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn volume_create(
    State(app): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    Body(body): Body<NewVolume>,
) -> Result<(StatusCode, (HeaderMap, Json<VolumeAndToken>))> {
    let made = app.control.volume_create(&caller, &body.name).await?;
    audit::created(&made.volume.id.to_string());
    Ok((StatusCode::CREATED, shown(made)))
}

/// Get a volume
///
/// With a fresh token for its content.
#[utoipa::path(get, path = "/volumes/{volumeID}", tag = "volumes", security(("ApiKeyAuth" = [])),
    params(("volumeID" = String, Path)),
    responses(
        (status = 200, body = VolumeAndToken),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn volume_get(
    State(app): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SegmentPath(id): SegmentPath,
) -> Result<(HeaderMap, Json<VolumeAndToken>)> {
    let id = volume_id(&id)?;
    Ok(shown(app.control.volume_access(&caller, id).await?))
}

/// Delete a volume
///
/// Its name is free at once; its data is deleted in the background. Sandboxes that have it
/// mounted find stale files.
#[utoipa::path(delete, path = "/volumes/{volumeID}", tag = "volumes", security(("ApiKeyAuth" = [])),
    params(("volumeID" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn volume_delete(
    State(app): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SegmentPath(id): SegmentPath,
) -> Result<StatusCode> {
    app.control.volume_delete(&caller, volume_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Copy a volume
///
/// Answers when the copy has begun; the new volume has the state `making` until all of it
/// is there. Files share their data with the originals where the file system can do that.
#[utoipa::path(post, path = "/volumes/{volumeID}/copy", tag = "volumes", security(("ApiKeyAuth" = [])),
    params(("volumeID" = String, Path)),
    request_body = CopyVolume,
    responses(
        (status = 202, description = "The copy has begun", body = VolumeAndToken),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError),
        (status = 409, description = "The volume is itself still being copied", body = ApiError),
        (status = 429, description = "The team has as many as it may have", body = ApiError),
        (status = 500, body = ApiError),
))]
pub(crate) async fn volume_copy(
    State(app): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SegmentPath(id): SegmentPath,
    Body(body): Body<CopyVolume>,
) -> Result<(StatusCode, (HeaderMap, Json<VolumeAndToken>))> {
    let id = volume_id(&id)?;
    let made = app.control.volume_copy(&caller, id, &body.name).await?;
    audit::created(&made.volume.id.to_string());
    Ok((StatusCode::ACCEPTED, shown(made)))
}

/// Get how much a volume holds
///
/// Every entry is looked at: it takes long for a large one.
#[utoipa::path(get, path = "/volumes/{volumeID}/usage", tag = "volumes", security(("ApiKeyAuth" = [])),
    params(("volumeID" = String, Path)),
    responses(
        (status = 200, body = VolumeUsage),
        (status = 400, body = ApiError), (status = 401, body = ApiError), (status = 403, body = ApiError),
        (status = 404, body = ApiError),
        (status = 409, description = "It is still being copied", body = ApiError), (status = 500, body = ApiError),
))]
pub(crate) async fn volume_usage(
    State(app): State<AppState>,
    ForSandboxes(caller): ForSandboxes,
    SegmentPath(id): SegmentPath,
) -> Result<Json<VolumeUsage>> {
    let id = volume_id(&id)?;
    let content = app
        .control
        .volume_content(&caller, id, Access::Read)
        .await?;
    let counted = app.counting.run(move || content.usage()).await?;
    let usage = counted.map_err(Error::internal)?;
    Ok(Json(VolumeUsage {
        bytes: usage.bytes,
        entries: usage.entries,
    }))
}
