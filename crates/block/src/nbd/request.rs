//! Parsing requests of the transmission phase.

use super::{ExportInfo, MAX_PAYLOAD_BYTES, ProtocolError, Reader, Session};

/// Bytes of a request without its payload.
pub const REQUEST_BYTES: usize = 28;
const REQUEST_MAGIC: u32 = 0x2560_9513;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISC: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
const CMD_WRITE_ZEROES: u16 = 6;
const CMD_BLOCK_STATUS: u16 = 7;

const FLAG_FUA: u16 = 1 << 0;
const FLAG_NO_HOLE: u16 = 1 << 1;
const FLAG_DF: u16 = 1 << 2;
const FLAG_REQ_ONE: u16 = 1 << 3;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Read,
    /// The payload of the request's length follows.
    Write {
        fua: bool,
    },
    Disconnect,
    Flush,
    Trim {
        fua: bool,
    },
    WriteZeroes {
        fua: bool,
        no_hole: bool,
    },
    BlockStatus {
        one: bool,
    },
    /// Understood well enough to be refused, without payload.
    Refused(Errno),
}

/// Errors as they are sent to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    Perm = 1,
    Io = 5,
    Inval = 22,
    NoSpace = 28,
    Overflow = 75,
    Shutdown = 108,
}

/// One request. Unless its command is refused, its range lies in the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    /// Chosen by the client; returned in the reply.
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl Request {
    /// Parses the front of `input`; `None` if it is not whole yet.
    pub fn parse(
        input: &[u8],
        export: &ExportInfo,
        session: Session,
    ) -> Result<Option<Self>, ProtocolError> {
        let mut reader = Reader(input);
        let Some(magic) = reader.u32() else {
            return Ok(None);
        };
        if magic != REQUEST_MAGIC {
            return Err(ProtocolError::RequestMagic(magic));
        }
        let (Some(flags), Some(kind)) = (reader.u16(), reader.u16()) else {
            return Ok(None);
        };
        let (Some(cookie), Some(offset)) = (reader.u64(), reader.u64()) else {
            return Ok(None);
        };
        let Some(length) = reader.u32() else {
            return Ok(None);
        };
        // A payload that is too long could only be read to be thrown away.
        if kind == CMD_WRITE && length > MAX_PAYLOAD_BYTES {
            return Err(ProtocolError::PayloadLength(length));
        }
        let command = match check(kind, flags, offset, length, export, session) {
            Ok(command) => command,
            Err(errno) => Command::Refused(errno),
        };
        Ok(Some(Self {
            command,
            cookie,
            offset,
            length,
        }))
    }

    /// Whether the request's length in payload follows it, refused or not.
    /// `input` is what was parsed.
    pub fn has_payload(input: &[u8]) -> bool {
        input.get(6..8) == Some(&CMD_WRITE.to_be_bytes()[..])
    }

    /// How many bytes carrying it out writes although it has no payload: zeros that are to
    /// keep their space are written like any others.
    pub fn written_bytes(&self) -> u32 {
        match self.command {
            Command::WriteZeroes { no_hole: true, .. } => self.length,
            _ => 0,
        }
    }
}

fn check(
    kind: u16,
    flags: u16,
    offset: u64,
    length: u32,
    export: &ExportInfo,
    session: Session,
) -> Result<Command, Errno> {
    let fua = flags & FLAG_FUA != 0;
    // A client may set FUA anywhere once it was offered; elsewhere it is idle.
    let (command, allowed, writes) = match kind {
        CMD_READ => (Command::Read, FLAG_DF, false),
        CMD_WRITE => (Command::Write { fua }, 0, true),
        CMD_DISC => return Ok(Command::Disconnect),
        CMD_FLUSH => {
            return if flags & !FLAG_FUA == 0 {
                Ok(Command::Flush)
            } else {
                Err(Errno::Inval)
            };
        }
        CMD_TRIM => (Command::Trim { fua }, 0, true),
        CMD_WRITE_ZEROES => {
            let no_hole = flags & FLAG_NO_HOLE != 0;
            (Command::WriteZeroes { fua, no_hole }, FLAG_NO_HOLE, true)
        }
        CMD_BLOCK_STATUS if session.block_status => (
            Command::BlockStatus {
                one: flags & FLAG_REQ_ONE != 0,
            },
            FLAG_REQ_ONE,
            false,
        ),
        _ => return Err(Errno::Inval),
    };
    if flags & !(allowed | FLAG_FUA) != 0 {
        return Err(Errno::Inval);
    }
    if writes && export.read_only {
        return Err(Errno::Perm);
    }
    if offset
        .checked_add(u64::from(length))
        .is_none_or(|end| end > export.size_bytes)
    {
        return Err(if writes { Errno::NoSpace } else { Errno::Inval });
    }
    if kind == CMD_READ && length > MAX_PAYLOAD_BYTES {
        return Err(Errno::Overflow);
    }
    if kind == CMD_BLOCK_STATUS && length == 0 {
        return Err(Errno::Inval);
    }
    Ok(command)
}
