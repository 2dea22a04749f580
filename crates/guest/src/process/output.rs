//! What a process writes, kept for its readers.
//!
//! One log of chunks with byte positions; each reader has a position of its own.
//!
//! * **A late reader** gets what is written from then on; asked to, first the last
//!   [`REPLAY_BYTES`] again.
//! * **No reader**: the process runs freely, older output is dropped.
//! * **The fastest reader sets the pace.** While even it has [`WINDOW_BYTES`]
//!   unread, the process is not read from, so it blocks as on any full pipe and
//!   nothing is lost.
//! * **A reader that falls [`LAG_BYTES`] behind** while another keeps up loses
//!   its place: its stream ends with an error that says so. It stalls neither
//!   the others nor the process, and may attach again.
//! * **Readers that take nothing at all** for [`STALL_LIMIT`] while the process
//!   waits for them lose their place too, so a client that went to sleep cannot
//!   hold a process for ever.
//!
//! One lock, never held across an await; two notifications (something to read,
//! room to write).

use hearth_util::LockExt as _;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hearth_guest_proto::process::process_event::EndEvent;
use tokio::sync::Notify;

use super::Process;

/// Output that a late reader can get again.
pub const REPLAY_BYTES: u64 = 64 * 1024;
/// Unread output at which the process has to wait.
pub const WINDOW_BYTES: u64 = 256 * 1024;
/// Unread output at which a slower reader is given up.
pub const LAG_BYTES: u64 = 1024 * 1024;
/// How long a process waits for readers that take nothing.
pub const STALL_LIMIT: Duration = Duration::from_secs(120);

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Source {
    Stdout,
    Stderr,
    Terminal,
}

/// What the output leaves to the agent's successor.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct OutputState {
    total: u64,
    /// Base64.
    chunks: Vec<(Source, String)>,
}

/// What a reader gets next.
#[derive(Clone, Debug)]
pub enum Item {
    Data(Source, Bytes),
    End(EndEvent),
    /// The reader was too slow; nothing follows.
    Lagged,
}

#[derive(Debug)]
struct Chunk {
    /// Position of the first byte in all output of the process.
    start: u64,
    source: Source,
    data: Bytes,
}

#[derive(Debug, Default)]
struct Log {
    chunks: VecDeque<Chunk>,
    /// Position after the last byte.
    total: u64,
    /// Position of each reader: all before it was taken. `None`: gave up.
    readers: HashMap<u64, Option<u64>>,
    next_reader: u64,
    end: Option<EndEvent>,
}

/// The output of one process.
#[derive(Debug)]
pub struct Output {
    log: Mutex<Log>,
    /// Something new to read.
    news: Notify,
    /// A reader took something, or left.
    room: Notify,
    stall_limit: Duration,
}

impl Default for Output {
    fn default() -> Self {
        Self::new(STALL_LIMIT)
    }
}

impl Output {
    pub fn new(stall_limit: Duration) -> Self {
        Self {
            log: Mutex::default(),
            news: Notify::new(),
            room: Notify::new(),
            stall_limit,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock_unpoisoned()
    }

    /// Adds output, waiting while the fastest reader has too much unread.
    pub async fn append(&self, source: Source, data: Bytes) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut log = self.log();
                if log
                    .fastest()
                    .is_none_or(|taken| log.total - taken < WINDOW_BYTES)
                {
                    log.push(source, data);
                    drop(log);
                    self.news.notify_waiters();
                    return;
                }
            }
            if tokio::time::timeout(self.stall_limit, room).await.is_err() {
                self.log().give_up_on_readers();
                self.news.notify_waiters();
            }
        }
    }

    /// Adds output without asking for room.
    pub fn push(&self, source: Source, data: Bytes) {
        self.log().push(source, data);
        self.news.notify_waiters();
    }

    /// All that is kept, for the agent's successor. Readers are not.
    pub fn state(&self) -> OutputState {
        let log = self.log();
        let chunks = log.chunks.iter();
        OutputState {
            total: log.total,
            chunks: chunks
                .map(|chunk| (chunk.source, STANDARD.encode(&chunk.data)))
                .collect(),
        }
    }

    /// What the predecessor left; `None` when it is malformed.
    pub fn restore(state: OutputState) -> Option<Self> {
        let mut log = Log::default();
        for (source, data) in state.chunks {
            let data = Bytes::from(STANDARD.decode(data).ok()?);
            let start = log.total;
            log.total += data.len() as u64;
            log.chunks.push_back(Chunk {
                start,
                source,
                data,
            });
        }
        // Positions go on from where they were.
        let before = state.total.checked_sub(log.total)?;
        for chunk in &mut log.chunks {
            chunk.start += before;
        }
        log.total = state.total;
        Some(Self {
            log: Mutex::new(log),
            ..Self::default()
        })
    }

    /// Adds the end. Later output is still kept for replay but no stream shows
    /// it.
    pub fn end(&self, event: EndEvent) {
        self.log().end = Some(event);
        self.news.notify_waiters();
    }

    pub fn has_ended(&self) -> bool {
        self.log().end.is_some()
    }
}

impl Log {
    fn fastest(&self) -> Option<u64> {
        self.readers.values().copied().flatten().max()
    }

    /// Where the last [`REPLAY_BYTES`] begin, in whole chunks.
    fn oldest_kept(&self) -> u64 {
        let floor = self.total.saturating_sub(REPLAY_BYTES);
        let mut starts = self.chunks.iter().map(|chunk| chunk.start);
        starts.find(|start| *start >= floor).unwrap_or(self.total)
    }

    fn push(&mut self, source: Source, data: Bytes) {
        let length = data.len() as u64;
        self.chunks.push_back(Chunk {
            start: self.total,
            source,
            data,
        });
        self.total += length;
        // Whoever is further behind than this has lost its place.
        let floor = self.total.saturating_sub(LAG_BYTES);
        for position in self.readers.values_mut() {
            if position.is_some_and(|position| position < floor) {
                *position = None;
            }
        }
        self.trim();
    }

    /// Drops chunks that no reader needs and no replay wants.
    fn trim(&mut self) {
        let slowest = self
            .readers
            .values()
            .copied()
            .flatten()
            .min()
            .unwrap_or(self.total);
        let keep_from = slowest.min(self.total.saturating_sub(REPLAY_BYTES));
        while self
            .chunks
            .front()
            .is_some_and(|chunk| chunk.end() <= keep_from)
        {
            self.chunks.pop_front();
        }
    }

    fn give_up_on_readers(&mut self) {
        for position in self.readers.values_mut() {
            *position = None;
        }
        self.trim();
    }

    fn take(&mut self, reader: u64) -> Option<Item> {
        let Some(position) = self.readers.get(&reader).copied().flatten() else {
            return Some(Item::Lagged);
        };
        let index = self.chunks.partition_point(|chunk| chunk.end() <= position);
        if let Some(chunk) = self.chunks.get(index) {
            let item = Item::Data(chunk.source, chunk.data.clone());
            let end = chunk.end();
            self.readers.insert(reader, Some(end));
            self.trim();
            return Some(item);
        }
        self.end.clone().map(Item::End)
    }
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

/// A reader's place in a process' output. Dropping it detaches the reader.
#[derive(Debug)]
pub struct Reader {
    process: Arc<Process>,
    id: u64,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the oldest output that is kept for replay.
    Kept,
    /// With what is written from now on.
    Now,
}

impl Reader {
    /// Attaches to a process.
    pub fn attach(process: Arc<Process>, begin: Begin) -> Self {
        let id = {
            let mut log = process.output.log();
            let id = log.next_reader;
            log.next_reader += 1;
            let position = match begin {
                Begin::Kept => log.oldest_kept(),
                Begin::Now => log.total,
            };
            log.readers.insert(id, Some(position));
            id
        };
        Self { process, id }
    }

    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The next item. Cancel safe. After `End` or `Lagged` it repeats itself.
    pub async fn next(&mut self) -> Item {
        let output = &self.process.output;
        loop {
            let news = output.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let taken = output.log().take(self.id);
            if let Some(item) = taken {
                output.room.notify_waiters();
                return item;
            }
            news.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut log = self.process.output.log();
        log.readers.remove(&self.id);
        log.trim();
        drop(log);
        self.process.output.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
