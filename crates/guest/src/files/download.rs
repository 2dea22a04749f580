//! `GET /files`: a file's bytes.
//!
//! Small files are read whole, larger ones piece by piece as the connection takes
//! them, so memory is constant and no thread is held while the network is slow.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, LAST_MODIFIED, RANGE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::access::FileQuery;
use super::content::{self, Encoding, Selection};
use super::names::native;
use super::reading::{PieceStream, pieces};
use super::{Actor, FileError};
use crate::http::{Body, HttpError, Response, empty, full};
use crate::paths;

/// Files up to this many bytes are read at once.
const WHOLE: u64 = 256 * 1024;

/// Answers a download.
pub async fn download(
    actor: &Actor,
    query: &FileQuery,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, HttpError> {
    let path = actor.resolve(query.path())?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(encoding) = content::negotiate(text(ACCEPT_ENCODING)) else {
        return Err(HttpError::new(
            StatusCode::NOT_ACCEPTABLE,
            "no acceptable encoding found, supported: [identity, gzip]",
        ));
    };
    let opened = {
        let path = path.clone();
        actor.run(move || open(&path)).await?
    };
    // A compressed body has other bytes than the range means.
    let encoding = if headers.contains_key(RANGE) {
        Encoding::Identity
    } else {
        encoding
    };
    let selection = content::select(text(RANGE), opened.size);
    let mut response = match (selection, encoding) {
        (Selection::Unsatisfiable, _) => return Ok(unsatisfiable(opened.size)),
        (Selection::Part(part), _) => {
            let mut response = identity(&opened, part.clone(), method);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {}-{}/{}", part.start, part.end - 1, opened.size);
            set(response.headers_mut(), CONTENT_RANGE, &range);
            response
        }
        (Selection::Whole, Encoding::Identity) => identity(&opened, 0..opened.size, method),
        (Selection::Whole, Encoding::Gzip) => gzip(&opened, method),
    };
    let name = paths::file_name(&path);
    let headers = response.headers_mut();
    set(headers, CONTENT_TYPE, content::media_type(name));
    set(headers, CONTENT_DISPOSITION, &content::disposition(name));
    set(headers, VARY, "Accept-Encoding");
    set(headers, ACCEPT_RANGES, "bytes");
    if let Some(date) = opened.modified.and_then(content::http_date) {
        set(headers, LAST_MODIFIED, &date);
    }
    Ok(response)
}

struct Opened {
    file: Arc<File>,
    size: u64,
    modified: Option<SystemTime>,
    /// All there is, when that is little.
    whole: Option<Bytes>,
}

fn open(path: &str) -> Result<Opened, FileError> {
    let failed = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            let message = format!("path '{path}' does not exist");
            FileError::new(super::error::Kind::NotFound, message)
        } else {
            FileError::from_io(&format!("error opening file '{path}'"), &error)
        }
    };
    // Without blocking: a pipe that nobody writes to must not hold the thread.
    let mut options = File::options();
    let mut file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(native(path))
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(FileError::invalid(format!("path '{path}' is a directory")));
    }
    if !metadata.is_file() {
        return Err(FileError::invalid(format!(
            "path '{path}' is not a regular file"
        )));
    }
    let mut size = metadata.len();
    let mut whole = None;
    if size <= WHOLE {
        // Files of the kernel's own say 0 and have content all the same.
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        std::io::Read::by_ref(&mut file)
            .take(MAX_UNSIZED)
            .read_to_end(&mut content)
            .map_err(failed)?;
        size = content.len() as u64;
        whole = Some(content.into());
    }
    Ok(Opened {
        file: file.into(),
        size,
        modified: metadata.modified().ok(),
        whole,
    })
}

/// What is read of a file that claims to be small.
const MAX_UNSIZED: u64 = 16 * 1024 * 1024;

fn identity(opened: &Opened, part: std::ops::Range<u64>, method: &Method) -> Response {
    let length = part.end - part.start;
    let body = if method == Method::HEAD {
        empty()
    } else if let Some(whole) = &opened.whole {
        let index = |at| usize::try_from(at).unwrap_or(usize::MAX).min(whole.len());
        full(whole.slice(index(part.start)..index(part.end)))
    } else {
        stream(pieces(Arc::clone(&opened.file), part))
    };
    let mut response = Response::new(body);
    set(response.headers_mut(), CONTENT_LENGTH, &length.to_string());
    response
}

fn gzip(opened: &Opened, method: &Method) -> Response {
    let body = if method == Method::HEAD {
        empty()
    } else {
        let source: PieceStream = match &opened.whole {
            Some(whole) => futures::stream::iter([Ok(whole.clone())]).boxed(),
            None => pieces(Arc::clone(&opened.file), 0..opened.size),
        };
        stream(compressed(source))
    };
    let mut response = Response::new(body);
    set(response.headers_mut(), CONTENT_ENCODING, "gzip");
    response
}

fn unsatisfiable(size: u64) -> Response {
    let error = HttpError::new(StatusCode::RANGE_NOT_SATISFIABLE, "invalid range");
    let mut response = error.into_response();
    set(
        response.headers_mut(),
        CONTENT_RANGE,
        &format!("bytes */{size}"),
    );
    response
}

fn compressed(source: PieceStream) -> PieceStream {
    enum State {
        Open(PieceStream, Box<GzEncoder<Vec<u8>>>),
        Done,
    }
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let state = State::Open(source, Box::new(encoder));
    futures::stream::unfold(state, |state| async move {
        let State::Open(mut source, encoder) = state else {
            return None;
        };
        let piece = match source.next().await {
            Some(Err(error)) => return Some((Err(error), State::Done)),
            Some(Ok(piece)) => Some(piece),
            None => None,
        };
        let last = piece.is_none();
        let worked = tokio::task::spawn_blocking(move || compress(encoder, piece)).await;
        let result = worked.map_err(std::io::Error::other).flatten();
        match result {
            Ok((bytes, encoder)) if !last => Some((Ok(bytes), State::Open(source, encoder))),
            Ok((bytes, _)) => Some((Ok(bytes), State::Done)),
            Err(error) => Some((Err(error), State::Done)),
        }
    })
    .boxed()
}

/// Compresses one piece, or what is left when there is none.
fn compress(
    mut encoder: Box<GzEncoder<Vec<u8>>>,
    piece: Option<Bytes>,
) -> std::io::Result<(Bytes, Box<GzEncoder<Vec<u8>>>)> {
    use std::io::Write as _;
    match piece {
        Some(piece) => encoder.write_all(&piece)?,
        None => encoder.try_finish()?,
    }
    let bytes = std::mem::take(encoder.get_mut());
    Ok((bytes.into(), encoder))
}

fn stream(pieces: PieceStream) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// Sets a header; a value that cannot be one is left out.
fn set(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
