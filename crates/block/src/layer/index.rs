//! The format of a layer's index: which blocks the layer holds. No I/O.
//!
//! ```text
//! header  128 bytes, little endian
//!     0  magic "HRTHLAYR"       8  version: u32 = 1      12  block size: u32 = 4096
//!    16  device bytes: u64     24  boot id: 16 bytes     40  layer id: 16 bytes
//!    56  flags: u32, 1=sealed  60  zero: u32             64  records if sealed: u64
//!    72  zeros                124  crc32 of bytes 0..124
//! record  16 bytes each, from offset 128
//!     0  crc32 of bytes 4..16, seeded with the checksum of the record (or header)
//!        before, xor 0x9e3779b9
//!     4  kind: u32 >> 30 (1 zero, 2 data, 3 commit), count: low 30 bits
//!     8  first block, or for a commit the number of marks it covers: u64
//! ```
//!
//! A mark says that `count` blocks from `first` are data (found in the data
//! file at the same offset as in the device) or read as zeros. A block only
//! ever rises, absent < zero < data, so the order of marks does not matter and
//! a log has at most two marks for each block. What no mark names is absent:
//! the layers below show through.
//!
//! The chained checksum makes a torn or stale tail end the log instead of
//! being read as records. A commit promises that the data of the marks it
//! covers is on stable storage. A sealed index is written whole, sorted and
//! merged, and its header counts its records, so that a truncated one is
//! found out.

use std::ops::Range;

use crate::storage::BootId;

/// Bytes of a block, of the map's unit and of the layers' alignment.
pub const BLOCK_SIZE: u64 = 4096;
pub(crate) const HEADER_BYTES: usize = 128;
pub(crate) const RECORD_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"HRTHLAYR";
const VERSION: u32 = 1;
const FLAG_SEALED: u32 = 1;
const COUNT_MAX: u64 = (1 << 30) - 1;
const KIND_ZERO: u32 = 1;
const KIND_DATA: u32 = 2;
const KIND_COMMIT: u32 = 3;

/// Names one layer for ever.
pub type LayerId = [u8; 16];

/// Why bytes are no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Not one byte was ever made durable.
    #[error("the index is empty")]
    Empty,
    #[error("the index has no whole header")]
    Short,
    #[error("this is no layer index")]
    Magic,
    #[error("the header's checksum does not match")]
    HeaderChecksum,
    #[error("layer format {0} is not supported")]
    Version(u32),
    #[error("blocks of {0} bytes are not supported")]
    BlockSize(u32),
    #[error("a device of {0} bytes is not supported")]
    Size(u64),
    #[error("record {0} names blocks outside the device")]
    Range(u64),
    #[error("record {0} is not valid here")]
    Record(u64),
    #[error("a sealed index has {found} valid records of {wanted}")]
    Truncated { found: u64, wanted: u64 },
}

/// The fixed part of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the device that the layer belongs to; a multiple of the block size.
    pub size_bytes: u64,
    /// The kernel run in which the index was created.
    pub boot_id: BootId,
    pub layer_id: LayerId,
    /// The number of records of an immutable layer; `None` while it is written.
    pub sealed_records: Option<u64>,
}

/// What a layer says about a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The block reads as zeros, whatever lies below.
    Zero,
    /// The block is in the layer's data file.
    Data,
}

/// A run of blocks with one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub state: State,
    pub blocks: Range<u64>,
}

/// What an index says.
#[derive(Debug)]
pub struct Replay {
    pub header: Header,
    /// In the order in which they were written.
    pub marks: Vec<Mark>,
    /// How many of the marks are durable together with their data.
    pub committed: usize,
    /// Bytes of the header and all valid records.
    pub(crate) valid_bytes: u64,
    /// The checksum that the next record continues.
    pub(crate) chain: u32,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.boot_id);
        bytes[40..56].copy_from_slice(&self.layer_id);
        if let Some(records) = self.sealed_records {
            bytes[56..60].copy_from_slice(&FLAG_SEALED.to_le_bytes());
            bytes[64..72].copy_from_slice(&records.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..124]);
        bytes[124..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(IndexError::Empty);
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(IndexError::Short);
        };
        if bytes[0..8] != MAGIC {
            return Err(IndexError::Magic);
        }
        if crc32fast::hash(&bytes[..124]) != u32_at(bytes, 124) {
            return Err(IndexError::HeaderChecksum);
        }
        if u32_at(bytes, 8) != VERSION {
            return Err(IndexError::Version(u32_at(bytes, 8)));
        }
        if u64::from(u32_at(bytes, 12)) != BLOCK_SIZE {
            return Err(IndexError::BlockSize(u32_at(bytes, 12)));
        }
        let size_bytes = u64_at(bytes, 16);
        if size_bytes == 0
            || !size_bytes.is_multiple_of(BLOCK_SIZE)
            || size_bytes > crate::MAX_SIZE_BYTES
        {
            return Err(IndexError::Size(size_bytes));
        }
        let mut header = Header {
            size_bytes,
            boot_id: BootId::default(),
            layer_id: LayerId::default(),
            sealed_records: (u32_at(bytes, 56) & FLAG_SEALED != 0).then(|| u64_at(bytes, 64)),
        };
        header.boot_id.copy_from_slice(&bytes[24..40]);
        header.layer_id.copy_from_slice(&bytes[40..56]);
        Ok(header)
    }

    fn chain(&self) -> u32 {
        u32_at(&self.encode(), 124)
    }
}

/// Writes records, each checksum continuing the one before.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    pub(crate) chain: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn after(chain: u32) -> Self {
        Self {
            chain,
            bytes: Vec::new(),
        }
    }

    /// Appends as many marks as the range needs and returns their number.
    pub(crate) fn mark(&mut self, state: State, blocks: Range<u64>) -> u64 {
        let kind = match state {
            State::Zero => KIND_ZERO,
            State::Data => KIND_DATA,
        };
        let mut start = blocks.start;
        let mut marks = 0;
        while start < blocks.end {
            let count = (blocks.end - start).min(COUNT_MAX);
            self.record(kind, count, start);
            start += count;
            marks += 1;
        }
        marks
    }

    pub(crate) fn commit(&mut self, covered: u64) {
        self.record(KIND_COMMIT, 0, covered);
    }

    fn record(&mut self, kind: u32, count: u64, value: u64) {
        let mut record = [0; RECORD_BYTES];
        record[4..8].copy_from_slice(&(kind << 30 | count as u32).to_le_bytes());
        record[8..16].copy_from_slice(&value.to_le_bytes());
        self.chain = checksum(self.chain, &record);
        record[0..4].copy_from_slice(&self.chain.to_le_bytes());
        self.bytes.extend_from_slice(&record);
    }
}

/// A whole index of an immutable layer; `marks` are sorted and do not overlap.
pub(crate) fn encode_sealed(header: &Header, marks: impl Iterator<Item = Mark>) -> Vec<u8> {
    let mut body = Encoder::after(0);
    let mut sorted = Vec::new();
    let mut records = 0;
    for mark in marks {
        records += body.mark(mark.state, mark.blocks.clone());
        sorted.push(mark);
    }
    let header = Header {
        sealed_records: Some(records),
        ..header.clone()
    };
    // The chain starts at the header, whose checksum covers the count.
    let mut encoder = Encoder::after(header.chain());
    encoder.bytes.extend_from_slice(&header.encode());
    for mark in sorted {
        encoder.mark(mark.state, mark.blocks);
    }
    encoder.bytes
}

/// The bytes of a new, empty index and the checksum its first record continues.
pub(crate) fn encode_new(header: &Header) -> Encoder {
    let mut encoder = Encoder::after(header.chain());
    encoder.bytes.extend_from_slice(&header.encode());
    encoder
}

/// Reads an index. A log ends at its first record whose checksum is wrong; a
/// sealed index must be whole.
pub fn replay(bytes: &[u8]) -> Result<Replay, IndexError> {
    let header = Header::decode(&bytes[..bytes.len().min(HEADER_BYTES)])?;
    let blocks = header.size_bytes / BLOCK_SIZE;
    let mut replay = Replay {
        chain: header.chain(),
        header,
        marks: Vec::new(),
        committed: 0,
        valid_bytes: 0,
    };
    let mut records = 0;
    for record in bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES) {
        let chain = checksum(replay.chain, record);
        if chain != u32_at(record, 0) || replay.header.sealed_records == Some(records) {
            break;
        }
        let count = u64::from(u32_at(record, 4)) & COUNT_MAX;
        let value = u64_at(record, 8);
        let state = match u32_at(record, 4) >> 30 {
            KIND_ZERO => Some(State::Zero),
            KIND_DATA => Some(State::Data),
            KIND_COMMIT => None,
            _ => return Err(IndexError::Record(records)),
        };
        match state {
            Some(state) => {
                let end = value
                    .checked_add(count)
                    .filter(|end| *end <= blocks && count > 0);
                let end = end.ok_or(IndexError::Range(records))?;
                replay.marks.push(Mark {
                    state,
                    blocks: value..end,
                });
            }
            None => {
                let marks = replay.marks.len() as u64;
                if value > marks || value < replay.committed as u64 || count != 0 {
                    return Err(IndexError::Record(records));
                }
                replay.committed = value as usize;
            }
        }
        replay.chain = chain;
        records += 1;
    }
    replay.valid_bytes = HEADER_BYTES as u64 + records * RECORD_BYTES as u64;
    if let Some(wanted) = replay.header.sealed_records {
        if records != wanted || bytes.len() as u64 != replay.valid_bytes {
            return Err(IndexError::Truncated {
                found: records,
                wanted,
            });
        }
        replay.committed = replay.marks.len();
    }
    Ok(replay)
}

fn checksum(seed: u32, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&record[4..]);
    // A run of zero bytes must not be a valid record after a zero checksum.
    hasher.finalize() ^ 0x9e37_79b9
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests;
