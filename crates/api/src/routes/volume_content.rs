//! The content of volumes. It is an API of its own on the same listener: callers show a
//! volume's token instead of a key, errors have words for codes, and files are as long as
//! they are.
//!
//! Disks are slow now and then: what touches them runs on threads that may block, never
//! more of it at once than [`crate::content_permits::ContentPermits`] has places, whoever asks.

mod transfer;

use crate::audit;
use crate::content_failure::ContentFailure;
use crate::error::Failure;
use crate::extract::{self, SegmentPath, access};
use crate::guard;
use crate::query::Query;
use crate::state::AppState;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use hearth_volumes::content::{Attributes, Content, ContentError, Entry, EntryPath, EntryType};
use hearth_wire::{SetVolumePath, VolumeContentError, VolumeEntry, VolumeEntryType};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes as collect;

type Result<T> = std::result::Result<T, ContentFailure>;

const DEFAULT_DEPTH: u32 = 1;

/// The documented routes, which [`crate::guard`] and [`crate::layers`] treat apart.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(collect!(
            volume_path_get,
            volume_path_set,
            volume_path_remove
        ))
        .routes(collect!(volume_dir_list, volume_dir_make))
        .routes(collect!(volume_file_read, volume_file_write))
}

pub(crate) fn router() -> Router<AppState> {
    routes().split_for_parts().0
}

/// What a call is about: an open volume and a path in it.
pub(crate) struct Target {
    content: Content,
    path: EntryPath,
    query: Query,
}

impl FromRequestParts<AppState> for Target {
    type Rejection = ContentFailure;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let caller = guard::caller(&parts.extensions)?;
        let SegmentPath(id) = SegmentPath::from_request_parts(parts, app).await?;
        let id = super::volumes::volume_id(&id)?;
        let Ok(query) = Query::from_request_parts(parts, app).await;
        let text = query.text("path").unwrap_or_default();
        audit::object(&format!("{id}:{text}"));
        let path = EntryPath::parse(text)?;
        let access = access(&parts.method);
        let content = app.control.volume_content(&caller, id, access).await?;
        Ok(Self {
            content,
            path,
            query,
        })
    }
}

impl Target {
    /// Runs a call, whose errors name the path.
    async fn run<T: Send + 'static>(
        self,
        app: &AppState,
        call: impl FnOnce(&Content, &EntryPath) -> std::result::Result<T, ContentError> + Send + 'static,
    ) -> Result<T> {
        let Self { content, path, .. } = self;
        let done = app.content.run(move || {
            let done = call(&content, &path);
            done.map_err(|error| ContentFailure::of(error, &path))
        });
        done.await?
    }

    fn attributes(&self) -> Result<Attributes> {
        let number = |name| self.query.integer_within(name, 0..=i64::from(u32::MAX));
        let number = |name| -> Result<Option<u32>> {
            Ok(number(name)?.and_then(|value| u32::try_from(value).ok()))
        };
        Ok(Attributes {
            uid: number("uid")?,
            gid: number("gid")?,
            mode: number("mode")?,
        })
    }

    fn force(&self) -> Result<bool> {
        let words = [("true", true), ("1", true), ("false", false), ("0", false)];
        Ok(self.query.word("force", &words)?.unwrap_or(false))
    }
}

fn shown(entry: Entry) -> Json<VolumeEntry> {
    Json(stat(entry))
}

fn stat(entry: Entry) -> VolumeEntry {
    VolumeEntry {
        name: entry.name,
        kind: match entry.kind {
            EntryType::File => VolumeEntryType::File,
            EntryType::Directory => VolumeEntryType::Directory,
            EntryType::Symlink => VolumeEntryType::Symlink,
            EntryType::Unknown => VolumeEntryType::Unknown,
        },
        path: entry.path,
        size: entry.size,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        atime: entry.atime,
        mtime: entry.mtime,
        ctime: entry.ctime,
        target: entry.target,
    }
}

/// Get what an entry is
///
/// A link is told of itself.
#[utoipa::path(get, path = "/volumecontent/{volumeID}/path", tag = "volume content", security(("VolumeToken" = [])),
    params(("volumeID" = String, Path), ("path" = String, Query, description = "Absolute within the volume", min_length = 1)),
    responses(
        (status = 200, body = VolumeEntry),
        (status = 400, body = VolumeContentError), (status = 401, body = VolumeContentError),
        (status = 404, body = VolumeContentError), (status = 500, body = VolumeContentError),
))]
async fn volume_path_get(State(app): State<AppState>, target: Target) -> Result<Json<VolumeEntry>> {
    let found = target.run(&app, |content, path| content.stat(path));
    Ok(shown(found.await?))
}

/// Change owner, group and mode of an entry
///
/// What is left out stays.
#[utoipa::path(patch, path = "/volumecontent/{volumeID}/path", tag = "volume content", security(("VolumeToken" = [])),
    params(("volumeID" = String, Path), ("path" = String, Query, description = "Absolute within the volume", min_length = 1)),
    request_body = SetVolumePath,
    responses(
        (status = 200, body = VolumeEntry),
        (status = 400, body = VolumeContentError), (status = 401, body = VolumeContentError),
        (status = 404, body = VolumeContentError), (status = 500, body = VolumeContentError),
))]
async fn volume_path_set(
    State(app): State<AppState>,
    target: Target,
    body: std::result::Result<extract::Body<SetVolumePath>, Failure>,
) -> Result<Json<VolumeEntry>> {
    let extract::Body(body) = body?;
    let attributes = Attributes {
        uid: body.uid,
        gid: body.gid,
        mode: body.mode,
    };
    let set = target.run(&app, move |content, path| content.set(path, attributes));
    Ok(shown(set.await?))
}

/// Remove an entry
///
/// A directory with all that is in it. What it held is deleted in the background.
#[utoipa::path(delete, path = "/volumecontent/{volumeID}/path", tag = "volume content", security(("VolumeToken" = [])),
    params(("volumeID" = String, Path), ("path" = String, Query, description = "Absolute within the volume", min_length = 1)),
    responses(
        (status = 204, description = "Removed"),
        (status = 400, body = VolumeContentError), (status = 401, body = VolumeContentError),
        (status = 404, body = VolumeContentError), (status = 500, body = VolumeContentError),
))]
async fn volume_path_remove(State(app): State<AppState>, target: Target) -> Result<StatusCode> {
    target
        .run(&app, |content, path| content.remove(path))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List a directory
///
/// In order of the names, each directory followed by what is in it.
#[utoipa::path(get, path = "/volumecontent/{volumeID}/dir", tag = "volume content", security(("VolumeToken" = [])),
    params(
        ("volumeID" = String, Path), ("path" = String, Query, description = "Absolute within the volume", min_length = 1),
        ("depth" = Option<u32>, Query, description = "1, the default, to 10"),
    ),
    responses(
        (status = 200, body = Vec<VolumeEntry>),
        (status = 400, body = VolumeContentError), (status = 401, body = VolumeContentError),
        (status = 404, body = VolumeContentError), (status = 500, body = VolumeContentError),
))]
async fn volume_dir_list(
    State(app): State<AppState>,
    target: Target,
) -> Result<Json<Vec<VolumeEntry>>> {
    let depth = match target.query.integer("depth")? {
        None => DEFAULT_DEPTH,
        // What is no such number is out of range all the more.
        Some(depth) => u32::try_from(depth).unwrap_or(0),
    };
    let listed = target.run(&app, move |content, path| content.list(path, depth));
    Ok(Json(listed.await?.into_iter().map(stat).collect()))
}

/// Make a directory
///
/// With `force` also those that it is in, and one that is there already is fine.
#[utoipa::path(post, path = "/volumecontent/{volumeID}/dir", tag = "volume content", security(("VolumeToken" = [])),
    params(
        ("volumeID" = String, Path), ("path" = String, Query, description = "Absolute within the volume", min_length = 1),
        ("uid" = Option<u32>, Query, description = "9090 where left out"), ("gid" = Option<u32>, Query, description = "9090 where left out"),
        ("mode" = Option<u32>, Query, description = "Permission bits; 0777 where left out"), ("force" = Option<bool>, Query),
    ),
    responses(
        (status = 201, body = VolumeEntry),
        (status = 400, body = VolumeContentError), (status = 401, body = VolumeContentError),
        (status = 404, body = VolumeContentError), (status = 409, body = VolumeContentError),
        (status = 500, body = VolumeContentError), (status = 507, body = VolumeContentError),
))]
async fn volume_dir_make(
    State(app): State<AppState>,
    target: Target,
) -> Result<(StatusCode, Json<VolumeEntry>)> {
    let (attributes, force) = (target.attributes()?, target.force()?);
    let made = target.run(&app, move |content, path| {
        content.make_directory(path, attributes, force)
    });
    Ok((StatusCode::CREATED, shown(made.await?)))
}

/// Read a file
///
/// A regular one; a link is not followed.
#[utoipa::path(get, path = "/volumecontent/{volumeID}/file", tag = "volume content", security(("VolumeToken" = [])),
    params(("volumeID" = String, Path), ("path" = String, Query, description = "Absolute within the volume", min_length = 1)),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = 400, body = VolumeContentError), (status = 401, body = VolumeContentError),
        (status = 404, body = VolumeContentError), (status = 500, body = VolumeContentError),
))]
async fn volume_file_read(State(app): State<AppState>, target: Target) -> Result<Response> {
    let opened = target.run(&app, |content, path| content.open_file(path));
    let (file, size) = opened.await?;
    let mut headers = HeaderMap::new();
    let binary = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, binary);
    headers.insert(header::CONTENT_LENGTH, size.into());
    let body = Body::from_stream(transfer::download(app.content, file, size));
    Ok((headers, body).into_response())
}

/// Write a file
///
/// The body is the file. A broken upload leaves what was there. Without `force` there must
/// be none; with it, the directories that it is in are made, too, and what is replaced
/// gives its owner and mode where none is given.
#[utoipa::path(put, path = "/volumecontent/{volumeID}/file", tag = "volume content", security(("VolumeToken" = [])),
    params(
        ("volumeID" = String, Path), ("path" = String, Query, description = "Absolute within the volume", min_length = 1),
        ("uid" = Option<u32>, Query, description = "9090 where left out"), ("gid" = Option<u32>, Query, description = "9090 where left out"),
        ("mode" = Option<u32>, Query, description = "Permission bits; 0666 where left out"), ("force" = Option<bool>, Query),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = VolumeEntry),
        (status = 400, body = VolumeContentError), (status = 401, body = VolumeContentError),
        (status = 404, body = VolumeContentError), (status = 409, body = VolumeContentError),
        (status = 500, body = VolumeContentError), (status = 507, body = VolumeContentError),
))]
async fn volume_file_write(
    State(app): State<AppState>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<VolumeEntry>)> {
    let (attributes, force) = (target.attributes()?, target.force()?);
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|text| text.to_str().ok()?.parse().ok());
    let path = target.path.clone();
    let begun = target.run(&app, move |content, path| {
        content.upload(path.clone(), attributes, force, announced)
    });
    let upload = begun.await?;
    let entry = transfer::upload(&app.content, upload, &path, body).await?;
    Ok((StatusCode::CREATED, shown(entry)))
}
