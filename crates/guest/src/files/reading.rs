//! The bytes of a file for a body: in order, in constant memory.
//!
//! What the page cache holds is read where the body is polled, without waiting for
//! the disk; only what is not there goes to a blocking thread. A hop to a thread
//! for every piece costs more than the piece itself. Buffers are used again once
//! the connection has sent them, because a fresh one is a page fault for every
//! 4 KiB of it.

use hearth_util::LockExt as _;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

/// Bytes that are read at a time.
const PIECE: usize = 128 * 1024;
/// Idle buffers that a download keeps.
const KEPT: usize = 4;

pub(super) type PieceStream = futures::stream::BoxStream<'static, io::Result<Bytes>>;

/// The bytes of `part`. A file that has become shorter ends the stream with an
/// error, because its length was promised.
pub(super) fn pieces(file: Arc<File>, part: Range<u64>) -> PieceStream {
    // Only advice: without it the kernel reads less ahead.
    let length = part.end.saturating_sub(part.start);
    let length = std::num::NonZeroU64::new(length);
    let _ = rustix::fs::fadvise(&file, part.start, length, Advice::Sequential);
    let state = (part.start, Arc::new(Pool::default()));
    futures::stream::unfold(state, move |(at, pool)| {
        let (file, end) = (Arc::clone(&file), part.end);
        async move {
            let wanted = usize::try_from(end.saturating_sub(at)).unwrap_or(PIECE);
            if wanted == 0 {
                return None;
            }
            // Lets others run while a client takes without end.
            tokio::task::coop::consume_budget().await;
            let piece = read(file, pool.take(), at, wanted.min(PIECE)).await;
            let next = at + piece.as_ref().map_or(0, |piece| piece.length as u64);
            let bytes = piece.map(Bytes::from_owner);
            // After an error nothing more is asked for.
            let next = if bytes.is_ok() { next } else { end };
            Some((bytes, (next, pool)))
        }
    })
    .boxed()
}

async fn read(file: Arc<File>, mut piece: Piece, at: u64, wanted: usize) -> io::Result<Piece> {
    piece.length = match read_cached(&file, &mut piece.buffer[..wanted], at)? {
        Some(length) => length,
        None => {
            let (read, length) = tokio::task::spawn_blocking(move || {
                let length = file.read_at(&mut piece.buffer[..wanted], at);
                (piece, length)
            })
            .await
            .map_err(io::Error::other)?;
            piece = read;
            length?
        }
    };
    if piece.length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(piece)
}

/// What can be had without waiting; `None` when the disk must be asked, or when the
/// file system cannot tell.
fn read_cached(file: &File, buffer: &mut [u8], at: u64) -> io::Result<Option<usize>> {
    let mut slices = [IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT) {
        // Nothing at all may be the file's end as well; the other way tells.
        Ok(0) => Ok(None),
        Ok(length) => Ok(Some(length)),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::INTR) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Buffers of one download that wait to be used again.
#[derive(Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    fn take(self: &Arc<Self>) -> Piece {
        let kept = self.0.lock_unpoisoned().pop();
        Piece {
            buffer: kept.unwrap_or_else(|| vec![0; PIECE]),
            length: 0,
            pool: Arc::clone(self),
        }
    }
}

/// A buffer that finds its way back.
struct Piece {
    /// Always [`PIECE`] bytes, so that nothing is ever cleared twice.
    buffer: Vec<u8>,
    /// How many of them were read.
    length: usize,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut kept = self.pool.0.lock_unpoisoned();
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file_of(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Arc::new(file)
    }

    async fn collect(mut stream: PieceStream) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = stream.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_part_is_whole() {
        let content: Vec<u8> = (0..PIECE * 3 + 77).map(|at| (at % 251) as u8).collect();
        let file = file_of(&content);
        for part in [0..content.len(), 1..2, PIECE - 1..PIECE * 2 + 5, 9..9] {
            let wanted = part.start as u64..part.end as u64;
            let got = collect(pieces(Arc::clone(&file), wanted)).await.unwrap();
            assert!(got == content[part.clone()], "{part:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error() {
        let file = file_of(&vec![7; PIECE * 2]);
        file.set_len(PIECE as u64 + 10).unwrap();
        let error = collect(pieces(file, 0..PIECE as u64 * 2))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn buffers_are_used_again() {
        let file = file_of(&vec![7; PIECE * 64]);
        let mut stream = pieces(file, 0..PIECE as u64 * 64);
        let mut places = std::collections::BTreeSet::new();
        while let Some(piece) = stream.next().await {
            places.insert(piece.unwrap().as_ptr());
        }
        assert_eq!(places.len(), 1);
    }
}
