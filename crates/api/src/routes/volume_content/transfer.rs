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
use tokio::sync::mpsc;

/// What is read or written at a time.
const PIECE_BYTES: usize = 256 << 10;
/// A client may send or take nothing for this long.
const IDLE: Duration = Duration::from_secs(60);

/// The first `size` bytes of a file. A client that reads nothing for a minute is given up:
/// the file is closed, and what it gets then ends before its announced length.
pub(super) fn download(
    permits: ContentPermits,
    file: File,
    size: u64,
) -> impl Stream<Item = io::Result<Bytes>> {
    let (pieces, taken) = mpsc::channel(1);
    // Apart from the connection, which looks at nothing while the client takes nothing. It
    // ends with the file, by the time limit, or when the connection lets go of its end.
    tokio::spawn(read_pieces(permits, file, size, pieces));
    futures::stream::unfold(taken, |mut taken| async move {
        taken.recv().await.map(|piece| (piece, taken))
    })
}

async fn read_pieces(
    permits: ContentPermits,
    mut file: File,
    mut left: u64,
    pieces: mpsc::Sender<io::Result<Bytes>>,
) {
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let read = permits.run(move || {
            let mut piece = vec![0; wanted];
            let read = file.read(&mut piece);
            piece.truncate(*read.as_ref().unwrap_or(&0));
            (file, read.map(|_| piece))
        });
        let Ok((same, piece)) = read.await else {
            return;
        };
        file = same;
        let piece = match piece {
            Ok(piece) if piece.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(piece) => Ok(Bytes::from(piece)),
            Err(error) => Err(error),
        };
        left = match &piece {
            Ok(piece) => left.saturating_sub(piece.len() as u64),
            Err(_) => 0,
        };
        match tokio::time::timeout(IDLE, pieces.send(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    fn file(bytes: usize) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![7; bytes]).expect("writes");
        std::io::Seek::rewind(&mut file).expect("rewinds");
        file
    }

    #[tokio::test]
    async fn a_download_is_the_whole_file_in_pieces() {
        let size = 3 * PIECE_BYTES + 5;
        let stream = download(ContentPermits::for_content(), file(size), size as u64);
        let pieces: Vec<_> = stream.collect().await;
        let lengths = pieces.into_iter().map(|piece| piece.expect("reads").len());
        assert_eq!(
            lengths.collect::<Vec<_>>(),
            [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 5]
        );
        // One that became shorter ends with an error, not as if it were whole.
        let stream = download(ContentPermits::for_content(), file(5), 6);
        let pieces: Vec<_> = stream.collect().await;
        assert_eq!(pieces.len(), 2);
        assert!(pieces[1].is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_for_long_is_given_up() {
        let size = 8 * PIECE_BYTES;
        let file = file(size);
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        let target = std::fs::read_link(&open).expect("is open");
        let stream = download(ContentPermits::for_content(), file, size as u64);
        let mut stream = std::pin::pin!(stream);
        stream.next().await.expect("a piece").expect("reads");
        tokio::time::sleep(IDLE * 3).await;
        assert_ne!(std::fs::read_link(&open).ok(), Some(target), "it is closed");
        let rest: Vec<_> = stream.collect().await;
        assert!(rest.len() < 7, "the end is missing");
    }
}
