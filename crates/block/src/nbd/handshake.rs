//! The fixed newstyle handshake as a state machine over bytes.
//!
//! ```text
//! greeting sent ─▶ client flags ─▶ option haggling ─┬─ GO, EXPORT_NAME ─▶ ready
//!                                       ▲    │      ├─ ABORT ───────────▶ closed
//!                                       └────┘      └─ malformed ───────▶ error
//! ```
//!
//! The caller appends what the client sent to a buffer, calls
//! [`Handshake::advance`], removes what was consumed and sends the output.

use super::{
    ExportInfo, IHAVEOPT, MAX_PAYLOAD_BYTES, MIN_BLOCK_BYTES, NBDMAGIC, PREFERRED_BLOCK_BYTES,
    ProtocolError, Reader, Session,
};

/// Longer options than any that we know; a client that sends more is hostile.
pub const MAX_OPTION_BYTES: u32 = 16 * 1024;
/// Options before the handshake must be over.
const MAX_OPTIONS: u32 = 64;

pub(super) const SERVER_FIXED_NEWSTYLE: u16 = 1;
const SERVER_NO_ZEROES: u16 = 2;
pub(super) const CLIENT_FIXED_NEWSTYLE: u32 = 1;
pub(super) const CLIENT_NO_ZEROES: u32 = 2;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_STARTTLS: u32 = 5;
const OPT_INFO: u32 = 6;
pub(super) const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_LIST_META_CONTEXT: u32 = 9;
const OPT_SET_META_CONTEXT: u32 = 10;

pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
pub(super) const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERR_UNSUP: u32 = 1 << 31 | 1;
const REP_ERR_POLICY: u32 = 1 << 31 | 2;
const REP_ERR_INVALID: u32 = 1 << 31 | 3;
const REP_ERR_UNKNOWN: u32 = 1 << 31 | 6;

pub(super) const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

/// The only metadata context: which ranges are known to be zeros.
const BASE_ALLOCATION: &[u8] = b"base:allocation";
pub(super) const BASE_ALLOCATION_ID: u32 = 1;

/// How far a handshake has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Pending,
    /// Requests follow.
    Ready(Session),
    /// The client is done; send the output and close.
    Closed,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Handshake {
    export: ExportInfo,
    session: Session,
    /// The client's flags, once they came.
    no_zeroes: Option<bool>,
    options: u32,
}

impl Handshake {
    /// Starts a handshake by appending the server's greeting to `output`.
    pub fn start(export: ExportInfo, output: &mut Vec<u8>) -> Self {
        output.extend_from_slice(&NBDMAGIC.to_be_bytes());
        output.extend_from_slice(&IHAVEOPT.to_be_bytes());
        output.extend_from_slice(&(SERVER_FIXED_NEWSTYLE | SERVER_NO_ZEROES).to_be_bytes());
        Self {
            export,
            session: Session::default(),
            no_zeroes: None,
            options: 0,
        }
    }

    /// Handles what is whole in `input`. Returns how many bytes were consumed
    /// and what follows; bytes after a `Ready` are the client's first requests.
    pub fn advance(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Progress), ProtocolError> {
        let mut reader = Reader(input);
        loop {
            let consumed = input.len() - reader.0.len();
            let progress = match self.no_zeroes {
                None => self.client_flags(&mut reader)?,
                Some(no_zeroes) => self.option(&mut reader, no_zeroes, output)?,
            };
            match progress {
                None => return Ok((consumed, Progress::Pending)),
                Some(Progress::Pending) => {}
                Some(done) => return Ok((input.len() - reader.0.len(), done)),
            }
        }
    }

    fn client_flags(&mut self, reader: &mut Reader) -> Result<Option<Progress>, ProtocolError> {
        let Some(flags) = reader.u32() else {
            return Ok(None);
        };
        if flags & CLIENT_FIXED_NEWSTYLE == 0 {
            return Err(ProtocolError::NotFixedNewstyle);
        }
        if flags & !(CLIENT_FIXED_NEWSTYLE | CLIENT_NO_ZEROES) != 0 {
            return Err(ProtocolError::ClientFlags(flags));
        }
        self.no_zeroes = Some(flags & CLIENT_NO_ZEROES != 0);
        Ok(Some(Progress::Pending))
    }

    /// Handles one option; `None` if it is not whole yet.
    fn option(
        &mut self,
        reader: &mut Reader,
        no_zeroes: bool,
        output: &mut Vec<u8>,
    ) -> Result<Option<Progress>, ProtocolError> {
        let Some(magic) = reader.u64() else {
            return Ok(None);
        };
        if magic != IHAVEOPT {
            return Err(ProtocolError::OptionMagic(magic));
        }
        let (Some(option), Some(length)) = (reader.u32(), reader.u32()) else {
            return Ok(None);
        };
        if length > MAX_OPTION_BYTES {
            return Err(ProtocolError::OptionLength(length));
        }
        let Some(data) = reader.take(length as usize) else {
            return Ok(None);
        };
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(ProtocolError::TooManyOptions);
        }
        let mut replies = Replies { option, output };
        match option {
            OPT_EXPORT_NAME => {
                if !self.is_named(data) {
                    return Err(ProtocolError::UnknownExport);
                }
                output.extend_from_slice(&self.export.size_bytes.to_be_bytes());
                let flags = self.export.transmission_flags(self.session);
                output.extend_from_slice(&flags.to_be_bytes());
                output.extend_from_slice(&[0; 124][..if no_zeroes { 0 } else { 124 }]);
                return Ok(Some(Progress::Ready(self.session)));
            }
            OPT_ABORT => {
                replies.reply(REP_ACK, &[]);
                return Ok(Some(Progress::Closed));
            }
            OPT_LIST => self.list(data, &mut replies),
            OPT_STARTTLS => replies.error(REP_ERR_POLICY, "TLS is not for a unix socket"),
            OPT_INFO | OPT_GO => {
                if self.info(data, &mut replies) && option == OPT_GO {
                    return Ok(Some(Progress::Ready(self.session)));
                }
            }
            OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.session.structured_replies = true;
                replies.reply(REP_ACK, &[]);
            }
            OPT_STRUCTURED_REPLY => replies.error(REP_ERR_INVALID, "no data expected"),
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.meta_context(data, &mut replies),
            _ => replies.error(REP_ERR_UNSUP, "the option is not supported"),
        }
        Ok(Some(Progress::Pending))
    }

    /// The empty name means the default export, which is the only one.
    fn is_named(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.export.name.as_bytes()
    }

    fn list(&self, data: &[u8], replies: &mut Replies) {
        if !data.is_empty() {
            return replies.error(REP_ERR_INVALID, "no data expected");
        }
        let name = self.export.name.as_bytes();
        let mut body = (name.len() as u32).to_be_bytes().to_vec();
        body.extend_from_slice(name);
        replies.reply(REP_SERVER, &body);
        replies.reply(REP_ACK, &[]);
    }

    /// Answers `INFO` and `GO`; `false` if that was an error.
    fn info(&self, data: &[u8], replies: &mut Replies) -> bool {
        let Some((name, wants_name)) = parse_info(data) else {
            replies.error(REP_ERR_INVALID, "malformed request for information");
            return false;
        };
        if !self.is_named(name) {
            replies.error(REP_ERR_UNKNOWN, "there is no such export");
            return false;
        }
        let mut body = INFO_EXPORT.to_be_bytes().to_vec();
        body.extend_from_slice(&self.export.size_bytes.to_be_bytes());
        body.extend_from_slice(&self.export.transmission_flags(self.session).to_be_bytes());
        replies.reply(REP_INFO, &body);
        let mut body = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [MIN_BLOCK_BYTES, PREFERRED_BLOCK_BYTES, MAX_PAYLOAD_BYTES] {
            body.extend_from_slice(&size.to_be_bytes());
        }
        replies.reply(REP_INFO, &body);
        if wants_name {
            let mut body = INFO_NAME.to_be_bytes().to_vec();
            body.extend_from_slice(self.export.name.as_bytes());
            replies.reply(REP_INFO, &body);
        }
        replies.reply(REP_ACK, &[]);
        true
    }

    fn meta_context(&mut self, data: &[u8], replies: &mut Replies) {
        let set = replies.option == OPT_SET_META_CONTEXT;
        if set {
            self.session.block_status = false;
        }
        let Some((name, queries)) = parse_meta_context(data) else {
            return replies.error(REP_ERR_INVALID, "malformed metadata context queries");
        };
        if set && !self.session.structured_replies {
            return replies.error(REP_ERR_INVALID, "structured replies must come first");
        }
        if !self.is_named(name) {
            return replies.error(REP_ERR_UNKNOWN, "there is no such export");
        }
        let list_all = !set && queries.is_empty();
        let wanted = |query: &&[u8]| *query == BASE_ALLOCATION || (!set && *query == b"base:");
        if list_all || queries.iter().any(wanted) {
            let mut body = if set { BASE_ALLOCATION_ID } else { 0 }
                .to_be_bytes()
                .to_vec();
            body.extend_from_slice(BASE_ALLOCATION);
            replies.reply(REP_META_CONTEXT, &body);
            self.session.block_status |= set;
        }
        replies.reply(REP_ACK, &[]);
    }
}

/// The export's name, and whether its canonical name is asked for.
fn parse_info(data: &[u8]) -> Option<(&[u8], bool)> {
    let mut reader = Reader(data);
    let name_length = reader.u32()?;
    let name = reader.take(name_length as usize)?;
    let mut wants_name = false;
    for _ in 0..reader.u16()? {
        wants_name |= reader.u16()? == INFO_NAME;
    }
    reader.0.is_empty().then_some((name, wants_name))
}

/// The export's name and the queries.
fn parse_meta_context(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut reader = Reader(data);
    let name_length = reader.u32()?;
    let name = reader.take(name_length as usize)?;
    let mut queries = Vec::new();
    // Each query takes four bytes at least, so the data bounds the loop.
    for _ in 0..reader.u32()? {
        let length = reader.u32()?;
        queries.push(reader.take(length as usize)?);
    }
    reader.0.is_empty().then_some((name, queries))
}

/// Appends replies to one option.
struct Replies<'a> {
    option: u32,
    output: &'a mut Vec<u8>,
}

impl Replies<'_> {
    fn reply(&mut self, kind: u32, body: &[u8]) {
        self.output
            .extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.output.extend_from_slice(&self.option.to_be_bytes());
        self.output.extend_from_slice(&kind.to_be_bytes());
        self.output
            .extend_from_slice(&(body.len() as u32).to_be_bytes());
        self.output.extend_from_slice(body);
    }

    fn error(&mut self, kind: u32, message: &str) {
        self.reply(kind, message.as_bytes());
    }
}
