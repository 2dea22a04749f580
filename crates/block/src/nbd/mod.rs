//! The NBD protocol. The server's side as functions from bytes to bytes: the fixed
//! newstyle [`handshake`], [`request`] parsing and [`reply`] encoding, without I/O.
//! Of the [`client`]'s side only the handshake: the kernel sends the requests.
//!
//! Source: the NBD project's `doc/proto.md`. Names follow that document.

pub mod client;
pub mod handshake;
pub mod reply;
pub mod request;

/// The longest request that a client may make, and what it is told.
pub const MAX_PAYLOAD_BYTES: u32 = 32 << 20;
pub(crate) const PREFERRED_BLOCK_BYTES: u32 = 4096;
pub(crate) const MIN_BLOCK_BYTES: u32 = 1;

pub(crate) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
pub(crate) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;

/// What the client asked for cannot be parsed; the connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("the client sent flags {0:#x} that were not offered")]
    ClientFlags(u32),
    #[error("the client does not speak the fixed newstyle handshake")]
    NotFixedNewstyle,
    #[error("expected an option, found magic {0:#x}")]
    OptionMagic(u64),
    #[error("an option of {0} bytes is too long")]
    OptionLength(u32),
    #[error("the client asked for an unknown export")]
    UnknownExport,
    #[error("the client sent more options than any client needs")]
    TooManyOptions,
    #[error("expected a request, found magic {0:#x}")]
    RequestMagic(u32),
    #[error("a request with {0} bytes of payload is too long")]
    PayloadLength(u32),
}

/// What a client is told about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    pub name: String,
    pub size_bytes: u64,
    pub read_only: bool,
}

/// What was agreed in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Session {
    /// Every reply is made of structured chunks.
    pub structured_replies: bool,
    /// The client may ask for the status of blocks ("base:allocation").
    pub block_status: bool,
}

const FLAG_HAS_FLAGS: u16 = 1 << 0;
const FLAG_READ_ONLY: u16 = 1 << 1;
const FLAG_SEND_FLUSH: u16 = 1 << 2;
const FLAG_SEND_FUA: u16 = 1 << 3;
const FLAG_SEND_TRIM: u16 = 1 << 5;
const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
const FLAG_SEND_DF: u16 = 1 << 7;
const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;

impl ExportInfo {
    /// Several connections are sound: all of them reach one device, whose
    /// flush covers every answered write, whoever made it.
    fn transmission_flags(&self, session: Session) -> u16 {
        let mut flags = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_CAN_MULTI_CONN;
        if self.read_only {
            flags |= FLAG_READ_ONLY;
        } else {
            flags |= FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES;
        }
        if session.structured_replies {
            flags |= FLAG_SEND_DF;
        }
        flags
    }
}

/// Takes big-endian integers off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests;
