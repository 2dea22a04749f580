//! Where archives of COPY sources arrive: a signed link takes one archive by
//! PUT. It is outside of the API's limits on time and size; its own are a length
//! that is told before and kept exactly, and a bound on silence.

use crate::audit;
use crate::error::{Failure, Result};
use crate::state::AppState;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::put;
use futures::StreamExt;
use hearth_control::{Control, Error, FilesPiece, UploadTicket};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const PATH: &str = "/template-files";
/// What is handed on to the node at a time.
const PIECE_BYTES: usize = 1 << 20;
/// A client may be silent for this long.
const IDLE: Duration = Duration::from_secs(60);

/// The scheme and host by which the caller reached the API: the link that it
/// gets leads there too.
pub(crate) struct Origin(String);

impl Origin {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> std::result::Result<Self, Infallible> {
        let header = |name: &str| {
            let value = parts.headers.get(name)?.to_str().ok()?;
            Some(value.split(',').next().unwrap_or(value).trim().to_owned())
        };
        let scheme = header("x-forwarded-proto")
            .filter(|scheme| scheme == "https" || scheme == "http")
            .or_else(|| parts.uri.scheme_str().map(str::to_owned))
            .unwrap_or_else(|| "http".to_owned());
        let host = header(HOST.as_str())
            .or_else(|| parts.uri.authority().map(ToString::to_string))
            .unwrap_or_else(|| "localhost".to_owned());
        Ok(Self(format!("{scheme}://{host}")))
    }
}

/// The link of a ticket.
pub(crate) fn url(Origin(origin): &Origin, ticket: &UploadTicket) -> String {
    let UploadTicket {
        team,
        hash,
        expires,
        signature,
    } = ticket;
    format!("{origin}{PATH}/{team}/{hash}?expires={expires}&signature={signature}")
}

pub(crate) fn router() -> Router<AppState> {
    Router::new().route(&format!("{PATH}/{{team}}/{{hash}}"), put(upload))
}

async fn upload(
    State(state): State<AppState>,
    Path((team, hash)): Path<(String, String)>,
    query: crate::query::Query,
    request: Request,
) -> Result<StatusCode> {
    let invalid = || Failure::http(StatusCode::FORBIDDEN, "the upload link is not valid");
    let ticket = UploadTicket {
        team: team.parse().map_err(|_| invalid())?,
        hash,
        expires: query
            .integer("expires")
            .ok()
            .flatten()
            .ok_or_else(invalid)?,
        signature: query.text("signature").ok_or_else(invalid)?.to_owned(),
    };
    state.control.upload_admit(&ticket)?;
    audit::team(ticket.team);
    let length = length(request.headers())?;
    receive(&state.control, &ticket, length, request.into_body()).await?;
    Ok(StatusCode::OK)
}

fn length(headers: &HeaderMap) -> Result<u64> {
    let missing = || {
        Failure::http(
            StatusCode::LENGTH_REQUIRED,
            "the upload must tell its length in a Content-Length header",
        )
    };
    let text = headers.get(CONTENT_LENGTH).ok_or_else(missing)?;
    let length = text.to_str().ok().and_then(|text| text.parse().ok());
    match length {
        Some(0) => Err(Error::invalid("Content-Length", "an archive is never empty").into()),
        Some(length) => Ok(length),
        None => Err(missing()),
    }
}

async fn receive(
    control: &Arc<Control>,
    ticket: &UploadTicket,
    total_bytes: u64,
    body: Body,
) -> Result<()> {
    let mut stream = body.into_data_stream();
    let mut piece = FilesPiece {
        team: ticket.team,
        hash: ticket.hash.clone(),
        upload_id: uuid::Uuid::new_v4().to_string(),
        offset: 0,
        data: Vec::with_capacity(PIECE_BYTES),
        total_bytes,
    };
    loop {
        let next = tokio::time::timeout(IDLE, stream.next())
            .await
            .map_err(|_| {
                Failure::http(
                    StatusCode::REQUEST_TIMEOUT,
                    "the upload stopped before its end",
                )
            })?;
        let ended = next.is_none();
        if let Some(chunk) = next {
            let chunk = chunk.map_err(|_| {
                Failure::from(Error::invalid("request body", "cannot be read to its end"))
            })?;
            piece.data.extend_from_slice(&chunk);
        }
        let full = piece.data.len() >= PIECE_BYTES;
        if !(full || ended) {
            continue;
        }
        let sent = piece.offset + piece.data.len() as u64;
        if sent > total_bytes || (ended && sent < total_bytes) {
            return Err(Error::invalid(
                "request body",
                format_args!("has {sent} bytes, not the {total_bytes} that were announced"),
            )
            .into());
        }
        if piece.data.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut piece.data);
        let whole = control
            .upload_add(FilesPiece {
                data,
                ..piece.clone()
            })
            .await?;
        if whole {
            return Ok(());
        }
        piece.offset = sent;
        if ended {
            return Ok(());
        }
    }
}
