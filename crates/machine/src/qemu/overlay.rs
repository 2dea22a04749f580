//! The table by which the preloaded library (`preload/open_fd.rs`) completes the guest's
//! memory: native-endian 64-bit numbers, first the memory's length and the number of
//! pieces, then for each piece its descriptor, file offset, memory offset and length.
//! Everything is checked here, so that a damaged description never reaches a VM.

use std::os::fd::RawFd;

use crate::{Error, MAX_MEMORY_FILES, MAX_MEMORY_PIECES, MemoryOverlay};

const PAGE: u64 = 4096;

/// Writes the table; `files` has each file's descriptor and length.
pub(super) fn table(
    overlay: &MemoryOverlay,
    files: &[(RawFd, u64)],
    memory_bytes: u64,
) -> Result<Vec<u8>, Error> {
    let refuse = |what: &str| Error::InvalidSpec(format!("the memory's difference {what}"));
    if overlay.pieces.len() > MAX_MEMORY_PIECES || files.len() > MAX_MEMORY_FILES {
        return Err(refuse("has too many pieces or files"));
    }
    let mut numbers = vec![memory_bytes, overlay.pieces.len() as u64];
    let mut ranges = Vec::with_capacity(overlay.pieces.len());
    for piece in &overlay.pieces {
        let (descriptor, file_bytes) = *files
            .get(piece.file)
            .ok_or_else(|| refuse("names no such file"))?;
        let aligned = [piece.file_offset, piece.memory_offset, piece.length]
            .iter()
            .all(|number| number % PAGE == 0);
        let end = piece.memory_offset.checked_add(piece.length);
        let file_end = piece.file_offset.checked_add(piece.length);
        let within = end.is_some_and(|end| end <= memory_bytes)
            && file_end.is_some_and(|end| end <= file_bytes);
        if piece.length == 0 || !aligned || !within {
            return Err(refuse("has a piece outside the memory or its file"));
        }
        let descriptor = u64::try_from(descriptor).map_err(|_| refuse("names no such file"))?;
        ranges.push(piece.memory_offset..piece.memory_offset + piece.length);
        numbers.extend([
            descriptor,
            piece.file_offset,
            piece.memory_offset,
            piece.length,
        ]);
    }
    ranges.sort_unstable_by_key(|range| range.start);
    if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(refuse("has a piece over another"));
    }
    Ok(numbers.into_iter().flat_map(u64::to_ne_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryPiece;

    fn piece(file: usize, file_offset: u64, memory_offset: u64, length: u64) -> MemoryPiece {
        MemoryPiece {
            file,
            file_offset: file_offset * PAGE,
            memory_offset: memory_offset * PAGE,
            length: length * PAGE,
        }
    }

    fn attempt(pieces: Vec<MemoryPiece>) -> Result<Vec<u8>, Error> {
        let overlay = MemoryOverlay {
            files: vec!["a".into()],
            pieces,
        };
        table(&overlay, &[(7, 4 * PAGE)], 16 * PAGE)
    }

    #[test]
    fn a_good_table_has_every_number() {
        let bytes = attempt(vec![piece(0, 2, 9, 2), piece(0, 0, 1, 1)]).unwrap();
        let numbers: Vec<u64> = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_ne_bytes(*bytes))
            .collect();
        let second = [7, 0, PAGE, PAGE];
        assert_eq!(numbers[..2], [16 * PAGE, 2]);
        assert_eq!(numbers[2..6], [7, 2 * PAGE, 9 * PAGE, 2 * PAGE]);
        assert_eq!(numbers[6..], second);
    }

    #[test]
    fn bad_pieces_are_refused() {
        let unaligned = MemoryPiece {
            file_offset: 1,
            ..piece(0, 0, 0, 1)
        };
        for pieces in [
            vec![piece(1, 0, 0, 1)],
            vec![piece(0, 3, 0, 2)],
            vec![piece(0, 0, 15, 2)],
            vec![piece(0, 0, 0, 0)],
            vec![piece(0, u64::MAX / PAGE, 0, 1)],
            vec![unaligned],
            vec![piece(0, 0, 4, 2), piece(0, 0, 5, 1)],
        ] {
            assert!(attempt(pieces.clone()).is_err(), "{pieces:?}");
        }
    }
}
