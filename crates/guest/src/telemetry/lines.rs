//! From the output of a process to lines of the log.
//!
//! Output may come faster than anybody wants to keep it. So all processes
//! together have a budget of bytes per second; lines beyond it are counted and
//! left out. Splitting is then skipped as well, so that a gigabyte of output
//! costs the log next to nothing.

use hearth_util::LockExt as _;
use std::sync::{Arc, Mutex};

use memchr::memchr;
use tokio::time::Instant;

use super::{Level, Log, Origin};

/// The longest line that is kept whole; the rest of a longer one is a line of
/// its own.
pub const MAX_LINE_BYTES: usize = 8 * 1024;
/// What may be logged at once after a quiet time.
const BURST_BYTES: u64 = 256 * 1024;
/// What may be logged per second in the long run.
const BYTES_PER_SECOND: u64 = 32 * 1024;
/// What a line costs beside its text.
const LINE_COST: u64 = 128;

/// Shared by all processes.
#[derive(Debug)]
pub struct Budget(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    left: u64,
    filled: Instant,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(Bucket {
            left: BURST_BYTES,
            filled: Instant::now(),
        }))
    }
}

impl Budget {
    /// Whether `bytes` may be logged now.
    fn spend(&self, bytes: u64, now: Instant) -> bool {
        let mut bucket = self.0.lock_unpoisoned();
        let passed = now.saturating_duration_since(bucket.filled).as_millis();
        let earned = u64::try_from(passed)
            .unwrap_or(u64::MAX)
            .saturating_mul(BYTES_PER_SECOND)
            / 1000;
        if earned > 0 {
            bucket.left = bucket.left.saturating_add(earned).min(BURST_BYTES);
            bucket.filled = now;
        }
        match bucket.left.checked_sub(bytes) {
            Some(left) => {
                bucket.left = left;
                true
            }
            None => false,
        }
    }
}

/// One output stream of one process.
#[derive(Debug)]
pub struct Lines {
    log: Arc<Log>,
    budget: Arc<Budget>,
    pid: u32,
    stream: &'static str,
    /// The line that has begun. Never longer than [`MAX_LINE_BYTES`].
    begun: Vec<u8>,
}

impl Lines {
    pub fn new(log: Arc<Log>, budget: Arc<Budget>, pid: u32, stream: &'static str) -> Self {
        Self {
            log,
            budget,
            pid,
            stream,
            begun: Vec::new(),
        }
    }

    /// Takes output as it comes.
    pub fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let room = MAX_LINE_BYTES - self.begun.len();
            let window = data.get(..room).unwrap_or(data);
            let (line, rest, whole) = match memchr(b'\n', window) {
                Some(at) => (&data[..at], &data[at + 1..], true),
                None => (window, &data[window.len()..], window.len() == room),
            };
            self.begun.extend_from_slice(line);
            data = rest;
            if whole && !self.emit() {
                self.skip(data);
                return;
            }
        }
    }

    /// Writes what has begun, at the end of the stream.
    pub fn finish(&mut self) {
        if !self.begun.is_empty() {
            self.emit();
        }
    }

    /// `false` when the budget is spent; the line is then lost.
    fn emit(&mut self) -> bool {
        let cost = self.begun.len() as u64 + LINE_COST;
        let affordable = self.budget.spend(cost, Instant::now());
        if affordable {
            let text = String::from_utf8_lossy(&self.begun).into_owned();
            let fields = [
                ("pid", self.pid.to_string()),
                ("stream", self.stream.to_owned()),
            ];
            self.log.write(Level::Info, Origin::Process, text, fields);
        } else {
            self.log.lose(1);
        }
        // Most streams are short; what a long line needed is not kept for ever.
        self.begun = Vec::new();
        affordable
    }

    /// Counts the lines of output that cannot be logged.
    fn skip(&mut self, data: &[u8]) {
        let ends = memchr::memchr_iter(b'\n', data).count() as u64;
        self.log.lose(ends);
        if let Some(last) = memchr::memrchr(b'\n', data) {
            let begun = &data[last + 1..];
            self.begun.clear();
            self.begun
                .extend_from_slice(begun.get(..MAX_LINE_BYTES - 1).unwrap_or(begun));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn logged(pieces: &[&[u8]]) -> (Vec<String>, u64) {
        let log = Arc::new(Log::default());
        let mut lines = Lines::new(Arc::clone(&log), Arc::default(), 7, "stdout");
        for piece in pieces {
            lines.take(piece);
        }
        lines.finish();
        let batch = log.take(&mut super::super::Position { after: 0 }, usize::MAX);
        let messages = batch.entries.into_iter().map(|entry| entry.message);
        (messages.collect(), batch.lost)
    }

    #[test]
    fn lines_are_put_together() {
        let (lines, lost) = logged(&[b"on", b"e\ntw", b"o\n\nthree"]);
        assert_eq!(lines, ["one", "two", "", "three"]);
        assert_eq!(lost, 0);
        let (lines, _) = logged(&[b"caf\xc3", b"\xa9 \xff\n"]);
        assert_eq!(lines, ["café \u{fffd}"]);
    }

    #[test]
    fn a_flood_is_counted_not_kept() {
        let flood = b"0123456789\n".repeat(1_000_000);
        let pieces: Vec<&[u8]> = flood.chunks(32 * 1024).collect();
        let (lines, lost) = logged(&pieces);
        // A line whose middle was skipped is still one line.
        let all = lines.len() as u64 + lost;
        assert!(all.abs_diff(1_000_000) <= pieces.len() as u64, "{all}");
        assert!((lines.len() as u64) < 10_000);
    }

    #[test]
    fn the_budget_fills_again() {
        let (budget, start) = (Budget::default(), Instant::now());
        assert!(budget.spend(BURST_BYTES, start));
        assert!(!budget.spend(1, start));
        let later = start + Duration::from_secs(1);
        assert!(budget.spend(BYTES_PER_SECOND, later));
        assert!(!budget.spend(1, later));
        let much_later = later + Duration::from_secs(1_000_000);
        assert!(!budget.spend(BURST_BYTES + 1, much_later));
        assert!(budget.spend(BURST_BYTES, much_later));
    }

    proptest! {
        #[test]
        fn nothing_is_added_or_left_out(
            text in "[a-z\n]{0,200}",
            cuts in prop::collection::vec(0_usize..200, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let (lines, lost) = logged(&pieces);
            let expected: Vec<&str> = text.lines().collect();
            prop_assert_eq!(lost, 0);
            prop_assert_eq!(lines, expected);
        }
    }
}
