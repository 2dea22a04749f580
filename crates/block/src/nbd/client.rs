//! The client's side of the handshake: asks for one export and leaves the
//! connection where requests begin, for another to send them.

use std::io::{self, Read, Write};

use super::handshake::{
    CLIENT_FIXED_NEWSTYLE, CLIENT_NO_ZEROES, INFO_EXPORT, MAX_OPTION_BYTES, OPT_GO,
    OPTION_REPLY_MAGIC, REP_ACK, REP_INFO, SERVER_FIXED_NEWSTYLE,
};
use super::{IHAVEOPT, NBDMAGIC, Reader};

/// Replies to one option; a server needs a handful.
const MAX_REPLIES: usize = 64;

/// What the server says of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    pub size_bytes: u64,
    /// Transmission flags as the protocol defines them.
    pub flags: u16,
}

/// Asks a server for an export; "" is its default.
///
/// # Errors
///
/// [`io::ErrorKind::NotFound`] when the server refuses the export,
/// [`io::ErrorKind::InvalidData`] when it does not speak the protocol, else what
/// the stream says.
pub fn negotiate(stream: &mut (impl Read + Write), name: &str) -> io::Result<Export> {
    let greeting: [u8; 18] = receive(stream)?;
    let mut reader = Reader(&greeting);
    if (reader.u64(), reader.u64()) != (Some(NBDMAGIC), Some(IHAVEOPT))
        || reader
            .u16()
            .is_none_or(|flags| flags & SERVER_FIXED_NEWSTYLE == 0)
    {
        return Err(malformed("this is no NBD server of the fixed newstyle"));
    }
    let mut option = Vec::new();
    option.extend_from_slice(&(CLIENT_FIXED_NEWSTYLE | CLIENT_NO_ZEROES).to_be_bytes());
    option.extend_from_slice(&IHAVEOPT.to_be_bytes());
    option.extend_from_slice(&OPT_GO.to_be_bytes());
    option.extend_from_slice(&(4 + name.len() as u32 + 2).to_be_bytes());
    option.extend_from_slice(&(name.len() as u32).to_be_bytes());
    option.extend_from_slice(name.as_bytes());
    option.extend_from_slice(&0_u16.to_be_bytes());
    stream.write_all(&option)?;
    let mut export = None;
    for _ in 0..MAX_REPLIES {
        let header: [u8; 20] = receive(stream)?;
        let mut reader = Reader(&header);
        if (reader.u64(), reader.u32()) != (Some(OPTION_REPLY_MAGIC), Some(OPT_GO)) {
            return Err(malformed("the server answered another option"));
        }
        let (kind, length) = (reader.u32().unwrap_or(0), reader.u32().unwrap_or(u32::MAX));
        if length > MAX_OPTION_BYTES {
            return Err(malformed("the server's answer is too long"));
        }
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body)?;
        match kind {
            REP_ACK => return export.ok_or_else(|| malformed("the server told no size")),
            REP_INFO => export = export.or(export_info(&body)),
            // Bit 31 marks errors; the body is a sentence for people.
            kind if kind >> 31 == 1 => {
                let reason = String::from_utf8_lossy(&body).into_owned();
                return Err(io::Error::new(io::ErrorKind::NotFound, reason));
            }
            _ => {}
        }
    }
    Err(malformed("the server's answers do not end"))
}

fn export_info(body: &[u8]) -> Option<Export> {
    let mut reader = Reader(body);
    (reader.u16()? == INFO_EXPORT).then_some(())?;
    Some(Export {
        size_bytes: reader.u64()?,
        flags: reader.u16()?,
    })
}

fn receive<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
