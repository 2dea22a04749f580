//! The index as bytes; its form is in the module above.

use super::{Index, MAX_RUNS, PAGE, Run, Source};

pub(super) const MAGIC: &[u8; 8] = b"HRTHMEMD";
const VERSION: u32 = 2;
const VERSION_WITHOUT_DISK: u32 = 1;
const HEADER: usize = 40;
const RECORD: usize = 24;
const RECORD_WITHOUT_DISK: usize = 16;
const DIGEST: usize = 32;
const DATA: u32 = 1;
const ZEROS: u32 = 2;
const DISK: u32 = 3;
/// An index longer than this is refused unread.
pub(crate) const MAX_INDEX_BYTES: u64 = (HEADER + DIGEST + RECORD * 4 * MAX_RUNS) as u64;

impl Index {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + RECORD * self.runs.len() + DIGEST);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((PAGE as u32).to_le_bytes());
        for number in [self.memory_bytes, self.data_bytes(), self.runs.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for run in &self.runs {
            bytes.extend(run.first_page.to_le_bytes());
            bytes.extend(run.pages.to_le_bytes());
            for number in run.source.encode() {
                bytes.extend(number.to_le_bytes());
            }
        }
        let digest = blake3::hash(&bytes);
        bytes.extend(digest.as_bytes());
        bytes
    }

    /// # Errors
    /// A sentence about the first fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("no memory index: {why}"));
        let Some(body) = bytes.len().checked_sub(DIGEST) else {
            return refuse("too short");
        };
        let (body, digest) = bytes.split_at(body);
        if body.len() < HEADER || body[..8] != *MAGIC {
            return refuse("wrong beginning");
        }
        if blake3::hash(body) != *<&[u8; 32]>::try_from(digest).unwrap_or(&[0; 32]) {
            return refuse("the content does not match its digest");
        }
        let record = match number32(body, 8) {
            VERSION => RECORD,
            VERSION_WITHOUT_DISK => RECORD_WITHOUT_DISK,
            _ => return refuse("unknown version"),
        };
        if u64::from(number32(body, 12)) != PAGE {
            return refuse("unknown page size");
        }
        let records = body[HEADER..].chunks_exact(record);
        if !records.remainder().is_empty() || records.len() as u64 != number64(body, 32) {
            return refuse("wrong length");
        }
        let memory_bytes = number64(body, 16);
        let mut runs: Vec<Run> = Vec::with_capacity(records.len());
        let mut end = 0;
        for record in records {
            let Some(source) = Source::decode(&record[12..]) else {
                return refuse("a run from nowhere");
            };
            let run = Run {
                first_page: number64(record, 0),
                pages: number32(record, 8),
                source,
            };
            let last = run.first_page.checked_add(run.pages.into());
            let fits = last.is_some_and(|last| last <= memory_bytes / PAGE);
            if run.first_page < end || run.pages == 0 || !fits {
                return refuse("a run that cannot be");
            }
            end = run.first_page + u64::from(run.pages);
            runs.push(run);
        }
        let index = Self { memory_bytes, runs };
        if index.data_bytes() != number64(body, 24) {
            return refuse("the lengths contradict each other");
        }
        Ok(index)
    }
}

impl Source {
    /// Kind, layer and block.
    fn encode(self) -> [u32; 3] {
        match self {
            Self::Data => [DATA, 0, 0],
            Self::Zeros => [ZEROS, 0, 0],
            Self::Disk { layer, block } => [DISK, layer, block],
        }
    }

    /// `None` for what [`Self::encode`] does not make, or what version 1 did not know.
    fn decode(bytes: &[u8]) -> Option<Self> {
        match number32(bytes, 0) {
            DATA => Some(Self::Data),
            ZEROS => Some(Self::Zeros),
            DISK if bytes.len() >= 12 => Some(Self::Disk {
                layer: number32(bytes, 4),
                block: number32(bytes, 8),
            }),
            _ => None,
        }
    }
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
