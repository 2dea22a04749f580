//! What the sandbox tells of itself: a log of what ran in it and of the agent's
//! own troubles, and samples of its resources.
//!
//! ```text
//!  process output ─▶ lines ─┐
//!  starts, ends ────────────┼─▶ Log (bounded) ─▶ stream ─▶ the host keeps it
//!  the agent's own events ──┘                       ▲
//!                              metrics, now and then┘
//! ```
//!
//! Nothing here ever waits for the host: when nobody collects, the oldest
//! entries make room, and how many were lost is told with the next batch.

pub mod lines;
pub mod stream;

use hearth_util::LockExt as _;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

/// What the log keeps until it is collected, with [`ENTRY_OVERHEAD`] per entry.
pub const MAX_BYTES: usize = 512 * 1024;
/// Memory of an entry beside its texts, about.
const ENTRY_OVERHEAD: usize = 160;

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Who says something: the first part of an entry's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The agent itself.
    Envd,
    /// A process that was started through it.
    Process,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Unix time in microseconds, made unique by counting on. So ids grow with
    /// the wall clock, also when the guest is put back to an older state.
    pub id: u64,
    pub level: Level,
    pub logger: Origin,
    pub message: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<Cow<'static, str>, String>,
}

/// Entries that follow each other, and how many are missing before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Batch {
    pub entries: Vec<Entry>,
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What a log leaves to the agent's successor.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LogState {
    entries: VecDeque<Entry>,
    last_id: u64,
    lost: u64,
}

/// The log. Writers never wait.
#[derive(Debug, Default)]
pub struct Log {
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    bytes: usize,
    last_id: u64,
    /// Lost and not yet told: never written, or dropped for newer ones.
    lost: u64,
}

impl Log {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock_unpoisoned()
    }

    pub fn write(
        &self,
        level: Level,
        logger: Origin,
        message: impl Into<String>,
        fields: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        let mut kept = self.kept();
        let id = now_micros().max(kept.last_id + 1);
        kept.last_id = id;
        let entry = Entry {
            id,
            level,
            logger,
            message: message.into(),
            fields: fields
                .into_iter()
                .map(|(name, value)| (Cow::Borrowed(name), value))
                .collect(),
        };
        kept.bytes += entry.size();
        kept.entries.push_back(entry);
        while kept.bytes > MAX_BYTES
            && let Some(oldest) = kept.entries.pop_front()
        {
            kept.bytes -= oldest.size();
            kept.lost += 1;
        }
        drop(kept);
        self.news.notify_waiters();
    }

    /// All of it, for the agent's successor.
    pub fn state(&self) -> LogState {
        let kept = self.kept();
        LogState {
            entries: kept.entries.clone(),
            last_id: kept.last_id,
            lost: kept.lost,
        }
    }

    /// Puts what was left before what was written since.
    pub fn restore(&self, state: LogState) {
        let mut kept = self.kept();
        for entry in state.entries.into_iter().rev() {
            kept.bytes += entry.size();
            kept.entries.push_front(entry);
        }
        kept.last_id = kept.last_id.max(state.last_id);
        kept.lost += state.lost;
    }

    /// Counts entries that were not even written.
    pub fn lose(&self, count: u64) {
        self.kept().lost += count;
    }

    /// Takes entries in order, of at most `limit` bytes but one at least.
    fn take(&self, reader: &mut Position, limit: usize) -> Batch {
        let mut kept = self.kept();
        let mut batch = Batch {
            lost: std::mem::take(&mut kept.lost),
            ..Batch::default()
        };
        let from = kept
            .entries
            .partition_point(|entry| entry.id <= reader.after);
        let mut size = 0;
        for entry in kept.entries.range(from..) {
            if size > 0 && size + entry.size() > limit {
                break;
            }
            size += entry.size();
            reader.after = entry.id;
            batch.entries.push(entry.clone());
        }
        kept.forget(reader.after);
        batch
    }

    /// Waits until there is something after `reader`. Cancel safe.
    async fn wait(&self, reader: &Position) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let kept = self.kept();
                let newest = kept.entries.back().map_or(0, |entry| entry.id);
                if newest > reader.after || kept.lost > 0 {
                    return;
                }
            }
            news.await;
        }
    }
}

impl Kept {
    /// Entries stay after they were sent, in case they did not arrive, but only
    /// while there is plenty of room.
    fn forget(&mut self, sent: u64) {
        while self.bytes > MAX_BYTES / 2
            && let Some(oldest) = self.entries.pop_front_if(|entry| entry.id <= sent)
        {
            self.bytes -= oldest.size();
        }
    }
}

/// How far a reader is: it has everything up to this id.
#[derive(Debug)]
struct Position {
    after: u64,
}

impl Entry {
    fn size(&self) -> usize {
        let fields: usize = self
            .fields
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2 * size_of::<String>())
            .sum();
        self.message.len() + fields + ENTRY_OVERHEAD
    }
}

fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn say(log: &Log, message: &str) {
        log.write(Level::Info, Origin::Envd, message, []);
    }

    fn messages(batch: &Batch) -> Vec<&str> {
        batch
            .entries
            .iter()
            .map(|entry| entry.message.as_str())
            .collect()
    }

    #[test]
    fn each_reader_gets_everything_once() {
        let log = Log::default();
        let mut first = Position { after: 0 };
        say(&log, "one");
        say(&log, "two");
        assert_eq!(messages(&log.take(&mut first, usize::MAX)), ["one", "two"]);
        assert!(log.take(&mut first, usize::MAX).entries.is_empty());
        say(&log, "three");
        let batch = log.take(&mut first, usize::MAX);
        assert_eq!(messages(&batch), ["three"]);
        let mut second = Position {
            after: batch.entries[0].id - 1,
        };
        assert_eq!(messages(&log.take(&mut second, usize::MAX)), ["three"]);
    }

    #[test]
    fn ids_grow_and_losses_are_told_once() {
        let log = Log::default();
        log.lose(3);
        for number in 0..10_000 {
            say(&log, &format!("{number:01000}"));
        }
        let mut reader = Position { after: 0 };
        let mut last = 0;
        let (mut got, mut lost) = (0, 0);
        loop {
            let batch = log.take(&mut reader, 10_000);
            lost += batch.lost;
            if batch.entries.is_empty() {
                break;
            }
            for entry in batch.entries {
                assert!(entry.id > last);
                last = entry.id;
                got += 1;
            }
        }
        assert_eq!(got + lost, 10_003);
        assert!(got > 100, "{got}");
        assert_eq!(log.take(&mut reader, 1).lost, 0);
    }

    proptest! {
        #[test]
        fn memory_is_bounded(sizes in prop::collection::vec(0_usize..40_000, 1..200)) {
            let log = Log::default();
            for size in &sizes {
                say(&log, &"x".repeat(*size));
            }
            let kept = log.kept();
            let bytes: usize = kept.entries.iter().map(Entry::size).sum();
            prop_assert_eq!(bytes, kept.bytes);
            prop_assert!(bytes <= MAX_BYTES);
            prop_assert_eq!(kept.entries.len() as u64 + kept.lost, sizes.len() as u64);
        }
    }
}
