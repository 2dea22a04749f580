//! One byte per block, in chunks that exist only where something was written.
//!
//! Readers never lock: a byte is loaded with acquire order and stored with
//! release order, so whoever sees a block's new byte also sees what was done
//! before it was stored. Writers are kept apart by their callers.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Blocks of one chunk: 16 MiB of device for 4 KiB of memory.
const CHUNK_BLOCKS: u64 = 4096;

type Chunk = Box<[AtomicU8]>;

/// A byte for each block of a device; a block never set has the byte 0.
pub(crate) struct ByteMap {
    chunks: Box<[OnceLock<Chunk>]>,
    blocks: u64,
}

impl ByteMap {
    pub(crate) fn new(blocks: u64) -> Self {
        let chunks = (0..blocks.div_ceil(CHUNK_BLOCKS))
            .map(|_| OnceLock::new())
            .collect();
        Self { chunks, blocks }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The byte of a block inside the device.
    pub(crate) fn load(&self, block: u64) -> u8 {
        debug_assert!(block < self.blocks);
        match self.chunks[(block / CHUNK_BLOCKS) as usize].get() {
            Some(chunk) => chunk[(block % CHUNK_BLOCKS) as usize].load(Ordering::Acquire),
            None => 0,
        }
    }

    /// Sets every block of the range, which lies inside the device.
    pub(crate) fn fill(&self, range: Range<u64>, value: u8) {
        debug_assert!(range.end <= self.blocks);
        let mut block = range.start;
        while block < range.end {
            let end = range.end.min((block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS);
            let slot = &self.chunks[(block / CHUNK_BLOCKS) as usize];
            if value != 0 || slot.get().is_some() {
                let chunk =
                    slot.get_or_init(|| (0..CHUNK_BLOCKS).map(|_| AtomicU8::new(0)).collect());
                let first = (block % CHUNK_BLOCKS) as usize;
                for byte in &chunk[first..first + (end - block) as usize] {
                    byte.store(value, Ordering::Release);
                }
            }
            block = end;
        }
    }

    /// The byte of the range's first block, and how far it goes on unchanged.
    pub(crate) fn run(&self, range: Range<u64>) -> (u8, u64) {
        debug_assert!(range.start < range.end && range.end <= self.blocks);
        let value = self.load(range.start);
        let mut block = range.start + 1;
        while block < range.end {
            let end = range.end.min((block / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS);
            match self.chunks[(block / CHUNK_BLOCKS) as usize].get() {
                None if value == 0 => block = end,
                None => break,
                Some(chunk) => {
                    let first = (block % CHUNK_BLOCKS) as usize;
                    let bytes = &chunk[first..first + (end - block) as usize];
                    match bytes
                        .iter()
                        .position(|byte| byte.load(Ordering::Acquire) != value)
                    {
                        Some(at) => {
                            block += at as u64;
                            break;
                        }
                        None => block = end,
                    }
                }
            }
        }
        (value, block - range.start)
    }

    /// The maximal runs of equal bytes that cover the range, in order.
    pub(crate) fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (u8, Range<u64>)> + '_ {
        let mut next = range.start;
        std::iter::from_fn(move || {
            (next < range.end).then(|| {
                let (value, length) = self.run(next..range.end);
                let start = next;
                next += length;
                (value, start..next)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_an_array(
            fills in prop::collection::vec((0u64..10_000, 0u64..9_000, 0u8..4), 0..20),
            query in (0u64..9_999, 1u64..10_000),
        ) {
            let blocks = 10_000;
            let map = ByteMap::new(blocks);
            let mut model = vec![0u8; blocks as usize];
            for (start, length, value) in fills {
                let end = (start + length).min(blocks);
                map.fill(start..end, value);
                model[start as usize..end as usize].fill(value);
            }
            let range = query.0..(query.0 + query.1).min(blocks);
            let mut seen = Vec::new();
            let mut previous = None;
            for (value, run) in map.runs(range.clone()) {
                prop_assert_ne!(previous, Some(value), "runs are maximal");
                previous = Some(value);
                seen.extend(std::iter::repeat_n(value, (run.end - run.start) as usize));
            }
            prop_assert_eq!(&seen[..], &model[range.start as usize..range.end as usize]);
        }
    }
}
