//! Reading `multipart/form-data`, without I/O: bytes go in, events come out.
//!
//! ```text
//!  preamble ─delimiter─▶ after delimiter ─CRLF─▶ headers ─empty line─▶ body ─┐
//!                              ▲   └──"--"──▶ done                           │
//!                              └───────────────delimiter─────────────────────┘
//! ```
//!
//! Memory is bounded: what is held back is never more than a delimiter, or the
//! headers of one part.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem;

/// Headers of one part may have this many bytes.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Longest boundary that the standard allows.
const MAX_BOUNDARY_BYTES: usize = 70;

/// What the input contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Part(PartHeader),
    Data(Bytes),
    PartEnd,
    /// The closing delimiter; whatever follows is ignored.
    End,
}

/// A part's `Content-Disposition`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartHeader {
    pub name: Option<String>,
    pub filename: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    #[error("multipart boundary is missing or invalid")]
    Boundary,
    #[error("multipart delimiter is malformed")]
    Delimiter,
    #[error("multipart headers have more than {MAX_HEADER_BYTES} bytes")]
    HeadersTooLong,
    #[error("multipart headers are malformed")]
    Headers,
    #[error("multipart body ended before its closing delimiter")]
    Truncated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Preamble,
    AfterDelimiter,
    Headers,
    BodyStart,
    Body,
    Done,
}

/// One multipart body.
#[derive(Debug)]
pub struct Parser {
    /// CRLF, two dashes and the boundary.
    delimiter: memmem::Finder<'static>,
    buffer: BytesMut,
    state: State,
    /// An end of part that is due after the data before it.
    part_ended: bool,
}

impl Parser {
    /// For the value of a `Content-Type` header.
    pub fn for_content_type(content_type: &str) -> Result<Self, MultipartError> {
        let (_, parameters) = content_type
            .split_once(';')
            .ok_or(MultipartError::Boundary)?;
        let boundary = parameter(parameters, "boundary").ok_or(MultipartError::Boundary)?;
        Self::new(&boundary)
    }

    pub fn new(boundary: &str) -> Result<Self, MultipartError> {
        if boundary.is_empty() || boundary.len() > MAX_BOUNDARY_BYTES {
            return Err(MultipartError::Boundary);
        }
        let delimiter = format!("\r\n--{boundary}");
        Ok(Self {
            delimiter: memmem::Finder::new(delimiter.as_bytes()).into_owned(),
            // So that a delimiter at the very start is found like any other.
            buffer: BytesMut::from(&b"\r\n"[..]),
            state: State::Preamble,
            part_ended: false,
        })
    }

    pub fn push(&mut self, data: &[u8]) {
        if self.state != State::Done {
            self.buffer.extend_from_slice(data);
        }
    }

    /// The next event; `None` when more input is needed.
    pub fn poll(&mut self) -> Result<Option<Event>, MultipartError> {
        loop {
            if std::mem::take(&mut self.part_ended) {
                return Ok(Some(Event::PartEnd));
            }
            match self.state {
                State::Done => return Ok(None),
                State::Preamble => {
                    if self.before_delimiter().is_none() {
                        return Ok(None);
                    }
                }
                State::AfterDelimiter => match self.after_delimiter()? {
                    None => return Ok(None),
                    Some(true) => return Ok(Some(Event::End)),
                    Some(false) => {}
                },
                State::Headers => return Ok(self.headers()?.map(Event::Part)),
                State::BodyStart => {
                    if !self.body_start() {
                        return Ok(None);
                    }
                }
                State::Body => match self.before_delimiter() {
                    None => return Ok(None),
                    Some(data) if data.is_empty() => {}
                    Some(data) => return Ok(Some(Event::Data(data))),
                },
            }
        }
    }

    /// Tells that the input is over.
    pub fn finish(&self) -> Result<(), MultipartError> {
        if self.state == State::Done {
            Ok(())
        } else {
            Err(MultipartError::Truncated)
        }
    }

    /// Takes bytes that cannot belong to a delimiter. At a delimiter, consumes
    /// it and moves on. `None`: more input is needed.
    fn before_delimiter(&mut self) -> Option<Bytes> {
        if let Some(at) = self.delimiter.find(&self.buffer) {
            let data = self.buffer.split_to(at).freeze();
            self.buffer.advance(self.delimiter.needle().len());
            self.part_ended = self.state == State::Body;
            self.state = State::AfterDelimiter;
            return Some(data);
        }
        let held_back = self.delimiter.needle().len() - 1;
        let safe = self
            .buffer
            .len()
            .checked_sub(held_back)
            .filter(|length| *length > 0)?;
        Some(self.buffer.split_to(safe).freeze())
    }

    /// `Some(true)` at the closing delimiter.
    fn after_delimiter(&mut self) -> Result<Option<bool>, MultipartError> {
        if self.buffer.starts_with(b"--") {
            self.state = State::Done;
            self.buffer.clear();
            return Ok(Some(true));
        }
        let padding = self
            .buffer
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        match self.buffer.get(padding..).unwrap_or_default() {
            [b'\r', b'\n', ..] => {
                // The line end stays: headers may be absent, and then the empty
                // line follows at once.
                self.buffer.advance(padding);
                self.state = State::Headers;
                Ok(Some(false))
            }
            [] | [b'\r'] | [b'-'] if padding < MAX_HEADER_BYTES => Ok(None),
            _ => Err(MultipartError::Delimiter),
        }
    }

    fn headers(&mut self) -> Result<Option<PartHeader>, MultipartError> {
        let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") else {
            if self.buffer.len() > MAX_HEADER_BYTES {
                return Err(MultipartError::HeadersTooLong);
            }
            return Ok(None);
        };
        if end > MAX_HEADER_BYTES {
            return Err(MultipartError::HeadersTooLong);
        }
        let block = self.buffer.split_to(end);
        // The CRLF that ends the last header is consumed. The empty line's own
        // stays: it may belong to a delimiter that follows at once.
        self.buffer.advance(2);
        let text = std::str::from_utf8(&block).map_err(|_| MultipartError::Headers)?;
        let mut header = PartHeader::default();
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(MultipartError::Headers)?;
            if name.trim().eq_ignore_ascii_case("content-disposition") {
                let parameters = value
                    .split_once(';')
                    .map_or("", |(_, parameters)| parameters);
                header.name = parameter(parameters, "name");
                header.filename = extended_parameter(parameters, "filename*")
                    .or_else(|| parameter(parameters, "filename"));
            }
        }
        self.state = State::BodyStart;
        Ok(Some(header))
    }

    /// At the empty line after the headers. `false`: more input is needed.
    fn body_start(&mut self) -> bool {
        let delimiter = self.delimiter.needle();
        if delimiter.len() > self.buffer.len() && delimiter.starts_with(&self.buffer) {
            return false;
        }
        if !self.buffer.starts_with(delimiter) {
            self.buffer.advance(2);
        }
        self.state = State::Body;
        true
    }
}

/// A parameter of a header value, unquoted.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return None;
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.trim().to_owned(), after)
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// A quoted string without its quotes, and what follows it. Only quotes and
/// backslashes are escaped; any other backslash is a character of the name.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.peek() {
                Some((_, next @ ('"' | '\\'))) => {
                    value.push(*next);
                    characters.next();
                }
                _ => value.push('\\'),
            },
            other => value.push(other),
        }
    }
    None
}

/// `filename*=UTF-8''name`, percent-decoded.
fn extended_parameter(parameters: &str, wanted: &str) -> Option<String> {
    let value = parameter(parameters, wanted)?;
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let decoded = percent_encoding::percent_decode_str(encoded)
        .decode_utf8()
        .ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests;
