//! Files on their way, a piece at a time: memory is bounded whatever their length, and a
//! client that is slow holds no place from others.

use super::Result;
use crate::content_failure::ContentFailure;
use crate::content_permits::ContentPermits;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures::{Stream, StreamExt};
use hearth_volumes::content::{ContentError, Entry, EntryPath, Upload};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

/// What is read or written at a time.
const PIECE_BYTES: usize = 256 << 10;
/// A client that uploads may be silent for this long.
const IDLE: Duration = Duration::from_secs(60);

/// The first `size` bytes of a file.
pub(super) fn download(
    permits: ContentPermits,
    file: File,
    size: u64,
) -> impl Stream<Item = io::Result<Bytes>> {
    futures::stream::unfold(
        (permits, file, size),
        |(permits, mut file, left)| async move {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            if wanted == 0 {
                return None;
            }
            let read = permits.run(move || {
                let mut piece = vec![0; wanted];
                let read = file.read(&mut piece)?;
                piece.truncate(read);
                Ok::<_, io::Error>((file, piece))
            });
            let (file, piece) = match read.await {
                Ok(Ok((_, piece))) if piece.is_empty() => {
                    let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Some((Err(cut), nothing(permits)?));
                }
                Ok(Ok(read)) => read,
                Ok(Err(error)) => return Some((Err(error), nothing(permits)?)),
                Err(_) => return None,
            };
            let left = left - piece.len() as u64;
            Some((Ok(Bytes::from(piece)), (permits, file, left)))
        },
    )
}

/// What follows an error, which ends the answer anyway.
fn nothing(permits: ContentPermits) -> Option<(ContentPermits, File, u64)> {
    let file = File::open("/dev/null").ok()?;
    Some((permits, file, 0))
}

/// Writes what comes to a file and puts it in its place.
pub(super) async fn upload(
    permits: &ContentPermits,
    mut upload: Upload,
    path: &EntryPath,
    body: Body,
) -> Result<Entry> {
    let failed = |error: ContentError| ContentFailure::of(error, path);
    let mut stream = body.into_data_stream();
    let mut pending = Vec::new();
    loop {
        let next = tokio::time::timeout(IDLE, stream.next()).await;
        let next = next.map_err(|_| {
            ContentFailure::new(
                StatusCode::REQUEST_TIMEOUT,
                "INVALID_REQUEST",
                "the upload stopped before its end",
            )
        })?;
        let ended = next.is_none();
        if let Some(chunk) = next {
            let chunk = chunk.map_err(|_| {
                let why = "the upload broke off before its end";
                ContentFailure::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", why)
            })?;
            upload.take(chunk.len()).map_err(failed)?;
            pending.extend_from_slice(&chunk);
        }
        if pending.len() >= PIECE_BYTES || (ended && !pending.is_empty()) {
            let file = upload.file().map_err(|error| failed(error.into()))?;
            let piece = std::mem::take(&mut pending);
            let written = permits.run(move || (&file).write_all(&piece)).await?;
            written.map_err(|error| failed(error.into()))?;
        }
        if ended {
            break;
        }
    }
    let finished = permits.run(move || upload.finish()).await?;
    finished.map_err(failed)
}
