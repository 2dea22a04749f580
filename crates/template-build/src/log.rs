//! A build's log: appended by the build, read by offset, bounded.
//!
//! Entries are never changed or dropped once they are in, so an offset means the
//! same entry for ever. What comes after the limit is counted, not kept; only
//! the build's own last words still get in.

use crate::Part;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};

/// The longest entry, in bytes; a longer line becomes several.
const MAX_ENTRY_BYTES: usize = 8 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub timestamp: DateTime<Utc>,
    pub level: Level,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// How much a log may hold.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    pub entries: usize,
    pub bytes: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            entries: 50_000,
            bytes: 8 << 20,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Log {
    limits: LogLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    bytes: usize,
    full: bool,
    /// Of the last line, kept or not.
    part: Option<Part>,
}

impl Log {
    pub(crate) fn new(limits: LogLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    /// A log that was kept on disk.
    pub(crate) fn of(entries: Vec<Entry>) -> Self {
        Self {
            limits: LogLimits::default(),
            state: Mutex::new(State {
                entries,
                bytes: 0,
                full: true,
                part: None,
            }),
        }
    }

    /// Adds a line, cut into entries where it is too long.
    pub(crate) fn add(&self, part: Option<Part>, level: Level, line: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.part = part;
        let mut rest = line;
        loop {
            let (piece, tail) = cut(rest);
            if state.full {
                return;
            }
            if state.entries.len() >= self.limits.entries
                || state.bytes + piece.len() > self.limits.bytes
            {
                state.full = true;
                let text = "The log has reached its limit; further output is not kept.";
                state.push(part, Level::Warn, text);
                return;
            }
            state.push(part, level, piece);
            if tail.is_empty() {
                return;
            }
            rest = tail;
        }
    }

    /// Adds what must be there however full the log is.
    pub(crate) fn conclude(&self, part: Option<Part>, level: Level, line: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (piece, _) = cut(line);
        state.push(part, level, piece);
    }

    /// What the build is at.
    pub(crate) fn part(&self) -> Option<Part> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .part
    }

    pub(crate) fn len(&self) -> usize {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entries
            .len()
    }

    pub(crate) fn slice(&self, offset: usize, limit: usize) -> Vec<Entry> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .entries
            .iter()
            .skip(offset)
            .take(limit)
            .cloned()
            .collect()
    }
}

impl State {
    fn push(&mut self, part: Option<Part>, level: Level, message: &str) {
        self.bytes += message.len();
        self.entries.push(Entry {
            timestamp: Utc::now(),
            level,
            message: message.to_owned(),
            step: part.map(|part| part.to_string()),
        });
    }
}

/// The first piece of a line that fits an entry, and the rest.
fn cut(line: &str) -> (&str, &str) {
    if line.len() <= MAX_ENTRY_BYTES {
        return (line, "");
    }
    let mut end = MAX_ENTRY_BYTES;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.split_at(end)
}

/// Turns a stream of bytes into lines. A line that never ends is given out in
/// pieces.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    pub(crate) fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let ended = piece.ends_with(b"\n") || piece.ends_with(b"\r");
            let text = if ended {
                &piece[..piece.len() - 1]
            } else {
                piece
            };
            self.pending.extend_from_slice(text);
            if ended || self.pending.len() >= MAX_ENTRY_BYTES {
                self.flush(&mut line);
            }
        }
    }

    /// Gives out what has no end yet.
    pub(crate) fn flush(&mut self, mut line: impl FnMut(&str)) {
        if !self.pending.is_empty() {
            line(&String::from_utf8_lossy(&self.pending));
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_come() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for bytes in [&b"one\ntw"[..], b"o\r\nprog", b"ress\r50%\rl\xff"] {
            lines.feed(bytes, |line| seen.push(line.to_owned()));
        }
        lines.flush(|line| seen.push(line.to_owned()));
        assert_eq!(seen, ["one", "two", "progress", "50%", "l\u{fffd}"]);
    }

    #[test]
    fn offsets_stay_and_the_limit_holds() {
        let log = Log::new(LogLimits {
            entries: 3,
            bytes: 1 << 20,
        });
        for number in 0..10 {
            log.add(Some(Part::Step(1)), Level::Info, &number.to_string());
        }
        log.conclude(None, Level::Error, "last words");
        let all = log.slice(0, 100);
        let texts: Vec<&str> = all.iter().map(|entry| entry.message.as_str()).collect();
        assert_eq!(texts[..3], ["0", "1", "2"]);
        assert!(texts[3].contains("limit"));
        assert_eq!(texts[4..], ["last words"]);
        assert_eq!(log.slice(1, 1)[0].message, "1");
        assert!(log.slice(99, 5).is_empty());
    }

    #[test]
    fn long_lines_are_cut_at_characters() {
        let log = Log::new(LogLimits::default());
        log.add(None, Level::Info, &"ä".repeat(MAX_ENTRY_BYTES));
        assert!(log.len() >= 2);
        assert!(
            log.slice(0, 9)
                .iter()
                .all(|entry| entry.message.len() <= MAX_ENTRY_BYTES)
        );
    }
}
