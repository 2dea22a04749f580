//! Sparse files: memory and disk images are mostly zeros, so nothing here costs
//! more than the bytes that carry content. Holes and stretches of written zeros
//! are the same thing to every function.

use crate::Digest;
use rustix::fs::{FallocateFlags, SeekFrom};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

/// The unit in which content is told from zeros, in bytes. It is part of the
/// digest's definition; do not change it without a new manifest format.
pub const CHUNK: usize = 64 * 1024;
/// The unit in which zeros are given back to the file system.
const PAGE: usize = 4096;

/// What [`copy`] moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The file's length, holes included.
    pub size_bytes: u64,
    /// The bytes that were read and written.
    pub content_bytes: u64,
}

/// The digest of a file whose zeros are free: BLAKE3 over, for every 64 KiB
/// aligned chunk that is not all zeros, its offset (8 bytes, little-endian) and
/// its bytes, and at last the file's length (8 bytes, little-endian). It does
/// not depend on where the file has holes.
pub fn digest(file: &File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let length = for_each_chunk(file, |offset, chunk| {
        hasher.update(&offset.to_le_bytes());
        hasher.update(chunk);
        Ok(())
    })?;
    hasher.update(&length.to_le_bytes());
    Ok(hasher.finalize().into())
}

/// Makes the [`digest`] of a file while it is written from its start to its end.
#[derive(Debug, Default)]
pub struct Digester {
    hasher: blake3::Hasher,
    /// Where the chunk begins that is not whole yet, and what there is of it.
    at: u64,
    partial: Vec<u8>,
}

impl Digester {
    /// Takes in the bytes that follow.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let missing = bytes.len().min(CHUNK - self.partial.len());
            let (now, later) = bytes.split_at(missing);
            self.partial.extend_from_slice(now);
            bytes = later;
            if self.partial.len() < CHUNK {
                return;
            }
            let whole = std::mem::take(&mut self.partial);
            self.chunk(&whole);
            self.partial = whole;
            self.partial.clear();
        }
        let chunks = bytes.chunks_exact(CHUNK);
        self.partial.extend_from_slice(chunks.remainder());
        for chunk in chunks {
            self.chunk(chunk);
        }
    }

    fn chunk(&mut self, chunk: &[u8]) {
        if !is_zero(chunk) {
            self.hasher.update(&self.at.to_le_bytes());
            self.hasher.update(chunk);
        }
        self.at += chunk.len() as u64;
    }

    /// The digest of the file with that length, in bytes, of which nothing but a hole
    /// follows what was taken in.
    #[must_use]
    pub fn finish(mut self, length: u64) -> Digest {
        let whole = usize::try_from(length.saturating_sub(self.at)).unwrap_or(CHUNK);
        let mut rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            rest.resize(whole.min(CHUNK), 0);
            self.chunk(&rest);
        }
        self.hasher.update(&length.to_le_bytes());
        self.hasher.finalize().into()
    }
}

/// Copies `from` to the new file `to`, leaving holes for zeros. Shares the
/// extents where the file system can.
///
/// # Errors
/// `AlreadyExists` when `to` exists; else what reading and writing report. A
/// failed copy leaves a partial `to`.
pub fn copy(from: &Path, to: &Path) -> io::Result<Copied> {
    let source = File::open(from)?;
    let target = File::options().write(true).create_new(true).open(to)?;
    let size_bytes = source.metadata()?.len();
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(Copied {
            size_bytes,
            content_bytes: 0,
        });
    }
    target.set_len(size_bytes)?;
    let mut content_bytes = 0;
    for_each_chunk(&source, |offset, chunk| {
        content_bytes += chunk.len() as u64;
        target.write_all_at(chunk, offset)
    })?;
    Ok(Copied {
        size_bytes,
        content_bytes,
    })
}

/// Turns written zeros into holes, a page (4096 bytes) at a time, and also what
/// is allocated but was never written. Returns how many bytes of written zeros
/// were given back.
pub fn punch_zeros(file: &File) -> io::Result<u64> {
    let mut punched = 0;
    release_unwritten(file)?;
    let mut run: Option<(u64, u64)> = None;
    let mut punch = |start: u64, end: u64| -> io::Result<()> {
        rustix::fs::fallocate(
            file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            start,
            end - start,
        )?;
        punched += end - start;
        Ok(())
    };
    for_each_data_chunk(file, |offset, chunk| {
        for (index, page) in chunk.chunks(PAGE).enumerate() {
            let start = offset + (index * PAGE) as u64;
            let end = start + page.len() as u64;
            if is_zero(page) {
                run = match run {
                    Some((begin, stop)) if stop == start => Some((begin, end)),
                    Some((begin, stop)) => {
                        punch(begin, stop)?;
                        Some((start, end))
                    }
                    None => Some((start, end)),
                };
            }
        }
        Ok(())
    })?;
    if let Some((begin, stop)) = run {
        punch(begin, stop)?;
    }
    Ok(punched)
}

/// Gives back the space of stretches that read as zeros without having been
/// written (preallocated ones; for holes this does nothing).
fn release_unwritten(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut offset = 0;
    while offset < length {
        let data = next_data(file, offset)?.unwrap_or(length);
        // Only whole pages: a page that the file system rounds in stays.
        let (start, end) = (
            offset.next_multiple_of(PAGE as u64),
            data - data % PAGE as u64,
        );
        if end > start {
            rustix::fs::fallocate(
                file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                start,
                end - start,
            )?;
        }
        if data == length {
            break;
        }
        offset = match rustix::fs::seek(file, SeekFrom::Hole(data)) {
            Ok(hole) if hole > data => hole,
            _ => break,
        };
    }
    Ok(())
}

/// The bytes that the file occupies on its disk.
pub fn allocated_bytes(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole blocks compare as vectors; most content differs in its first one.
    let (blocks, tail) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && tail.iter().all(|byte| *byte == 0)
}

/// Calls `visit` for every aligned chunk that holds a byte other than zero;
/// returns the file's length.
fn for_each_chunk(
    file: &File,
    mut visit: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    for_each_data_chunk(file, |offset, chunk| {
        if is_zero(chunk) {
            Ok(())
        } else {
            visit(offset, chunk)
        }
    })
}

/// Calls `visit` for every aligned chunk that the file system does not report as
/// a hole.
pub(crate) fn for_each_data_chunk(
    file: &File,
    mut visit: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut buffer = vec![0u8; CHUNK];
    let mut offset = 0;
    while offset < length {
        let Some(data) = next_data(file, offset)? else {
            break;
        };
        offset = data - data % CHUNK as u64;
        if offset >= length {
            break;
        }
        let wanted = usize::try_from((length - offset).min(CHUNK as u64)).unwrap_or(CHUNK);
        file.read_exact_at(&mut buffer[..wanted], offset)?;
        visit(offset, &buffer[..wanted])?;
        offset += wanted as u64;
    }
    Ok(length)
}

/// The first offset at or after `offset` that is not in a hole. File systems
/// that know no holes answer `offset` itself.
fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(rustix::io::Errno::INVAL) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A file with the given (offset, bytes) writes and length.
    fn file_with(length: u64, writes: &[(u64, Vec<u8>)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(length).unwrap();
        for (offset, bytes) in writes {
            let room = length.saturating_sub(*offset) as usize;
            file.as_file()
                .write_all_at(&bytes[..bytes.len().min(room)], *offset)
                .unwrap();
        }
        file
    }

    fn writes() -> impl Strategy<Value = (u64, Vec<(u64, Vec<u8>)>)> {
        let write = (
            0u64..600_000,
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 1..9000),
                (1usize..200_000).prop_map(|count| vec![0; count]),
            ],
        );
        (1u64..600_000, proptest::collection::vec(write, 0..6))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Copying and punching change neither content nor digest, and the
        /// digest tells different contents apart.
        #[test]
        fn content_survives((length, writes) in writes(), flip in 0u64..600_000) {
            let file = file_with(length, &writes);
            let content = std::fs::read(file.path()).unwrap();
            let before = digest(file.as_file()).unwrap();

            let directory = tempfile::tempdir().unwrap();
            let to = directory.path().join("copy");
            let copied = copy(file.path(), &to).unwrap();
            prop_assert_eq!(copied.size_bytes, length);
            prop_assert_eq!(&std::fs::read(&to).unwrap(), &content);

            punch_zeros(file.as_file()).unwrap();
            prop_assert_eq!(&std::fs::read(file.path()).unwrap(), &content);
            prop_assert_eq!(digest(file.as_file()).unwrap(), before);

            let mut dense = tempfile::tempfile().unwrap();
            dense.write_all(&content).unwrap();
            prop_assert_eq!(digest(&dense).unwrap(), before);

            let mut other = content.clone();
            let index = (flip % length) as usize;
            other[index] ^= 1;
            let mut changed = tempfile::tempfile().unwrap();
            changed.write_all(&other).unwrap();
            prop_assert_ne!(digest(&changed).unwrap(), before);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A digest made while writing is the one of the file that was written.
        #[test]
        fn a_digest_is_made_while_writing(
            parts in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..9000),
                    (0usize..200_000).prop_map(|count| vec![0; count]),
                    (0usize..200_000).prop_map(|count| vec![7; count]),
                ],
                0..6,
            ),
            hole in 0u64..200_000,
        ) {
            let mut file = tempfile::tempfile().unwrap();
            let mut digester = Digester::default();
            let mut length = hole;
            for part in &parts {
                file.write_all(part).unwrap();
                digester.update(part);
                length += part.len() as u64;
            }
            file.set_len(length).unwrap();
            prop_assert_eq!(digester.finish(length), digest(&file).unwrap());
        }
    }

    #[test]
    fn unwritten_space_is_given_back() {
        let file = tempfile::tempfile().unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        file.write_all_at(b"content", 300_000).unwrap();
        file.sync_all().unwrap();
        assert!(allocated_bytes(&file).unwrap() >= 1 << 20);
        punch_zeros(&file).unwrap();
        assert!(allocated_bytes(&file).unwrap() < 1 << 19);
        let mut found = [0; 7];
        file.read_exact_at(&mut found, 300_000).unwrap();
        assert_eq!(&found, b"content");
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn punching_gives_space_back() {
        let mut file = tempfile::tempfile().unwrap();
        let mut content = vec![0u8; 1 << 20];
        content[500_000] = 1;
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        let before = allocated_bytes(&file).unwrap();
        let punched = punch_zeros(&file).unwrap();
        assert_eq!(punched, (1 << 20) - 4096);
        assert!(allocated_bytes(&file).unwrap() < before);
        let mut found = vec![0; 1 << 20];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content);
    }
}
