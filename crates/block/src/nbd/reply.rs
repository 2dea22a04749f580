//! Encoding replies of the transmission phase.

use super::Session;
use super::handshake::BASE_ALLOCATION_ID;
use super::request::Errno;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const CHUNK_DONE: u16 = 1;
const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_BLOCK_STATUS: u16 = 5;
const TYPE_ERROR: u16 = 1 << 15 | 1;
const STATE_HOLE: u32 = 1;
const STATE_ZERO: u32 = 2;

/// The longest header before the data of a read.
pub const READ_HEADER_BYTES: usize = 28;

/// Bytes sent ahead of the data of a successful read.
pub struct ReadHeader {
    bytes: [u8; READ_HEADER_BYTES],
    length: usize,
}

impl ReadHeader {
    pub fn new(session: Session, cookie: u64, offset: u64, length: u32) -> Self {
        let mut bytes = [0; READ_HEADER_BYTES];
        if !session.structured_replies {
            bytes[..16].copy_from_slice(&simple(cookie, 0));
            return Self { bytes, length: 16 };
        }
        bytes[..20].copy_from_slice(&chunk(TYPE_OFFSET_DATA, cookie, 8 + length));
        bytes[20..].copy_from_slice(&offset.to_be_bytes());
        Self {
            bytes,
            length: READ_HEADER_BYTES,
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Appends the reply to anything but a successful read.
pub fn result(session: Session, cookie: u64, result: Result<(), Errno>, output: &mut Vec<u8>) {
    let errno = result.err().map_or(0, |errno| errno as u32);
    if !session.structured_replies {
        return output.extend_from_slice(&simple(cookie, errno));
    }
    if errno == 0 {
        return output.extend_from_slice(&chunk(TYPE_NONE, cookie, 0));
    }
    output.extend_from_slice(&chunk(TYPE_ERROR, cookie, 6));
    output.extend_from_slice(&errno.to_be_bytes());
    output.extend_from_slice(&0u16.to_be_bytes());
}

/// Appends the status of consecutive extents: (bytes, known to be zeros).
pub fn block_status(
    cookie: u64,
    extents: impl ExactSizeIterator<Item = (u32, bool)>,
    output: &mut Vec<u8>,
) {
    let length = 4 + 8 * extents.len() as u32;
    output.extend_from_slice(&chunk(TYPE_BLOCK_STATUS, cookie, length));
    output.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
    for (bytes, is_zero) in extents {
        let state = if is_zero { STATE_HOLE | STATE_ZERO } else { 0 };
        output.extend_from_slice(&bytes.to_be_bytes());
        output.extend_from_slice(&state.to_be_bytes());
    }
}

fn simple(cookie: u64, errno: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&errno.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// A chunk's header; every reply of ours is a single, final chunk.
fn chunk(kind: u16, cookie: u64, length: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0..4].copy_from_slice(&STRUCTURED_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&CHUNK_DONE.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..20].copy_from_slice(&length.to_be_bytes());
    bytes
}
