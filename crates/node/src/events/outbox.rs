//! The outbox: events of this node that no control plane has acknowledged, a file each.
//!
//! A file is put in place by one rename, and its name is its place in the order. Numbers
//! rise across restarts of the daemon, as they are times where nothing waits. What the
//! disk does not take waits in memory, and in the sandbox's journal.

use super::event::SandboxEvent;
use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Events that wait at most. A control plane that is away for longer loses the oldest.
const MAX_WAITING: usize = 200_000;
/// Bytes of them at most: the disk is the sandboxes'.
const MAX_BYTES: u64 = 1 << 30;
const NEW_FILE: &str = "event.new";

#[derive(Debug)]
pub(crate) struct Outbox {
    directory: PathBuf,
    waiting: Mutex<Waiting>,
    /// The number of the last event.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By their numbers.
    events: BTreeMap<u64, Kept>,
    bytes: u64,
    last: u64,
}

#[derive(Debug)]
struct Kept {
    /// Of its text.
    bytes: u64,
    /// The event, where the disk did not take it.
    event: Option<Box<SandboxEvent>>,
}

impl Waiting {
    fn insert(&mut self, number: u64, kept: Kept) {
        self.bytes += kept.bytes;
        self.events.insert(number, kept);
        self.last = self.last.max(number);
    }

    fn remove(&mut self, number: u64) -> Option<Kept> {
        let kept = self.events.remove(&number)?;
        self.bytes -= kept.bytes;
        Some(kept)
    }

    /// The oldest, where there are more than may wait.
    fn excess(&self) -> Option<u64> {
        let (oldest, _) = self.events.first_key_value()?;
        let much = self.events.len() > MAX_WAITING || self.bytes > MAX_BYTES;
        (much && self.events.len() > 1).then_some(*oldest)
    }
}

impl Outbox {
    /// The outbox of a directory, with what a former daemon left in it.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        let mut waiting = Waiting::default();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| {
                let number = name.strip_suffix(".json")?;
                number.parse::<u64>().ok()
            });
            if let Some(number) = number {
                let bytes = entry.metadata()?.len();
                waiting.insert(number, Kept { bytes, event: None });
            }
        }
        Ok(Self {
            directory,
            news: watch::Sender::new(waiting.last),
            waiting: Mutex::new(waiting),
        })
    }

    /// Adds an event. Answers whether it is on disk.
    pub(crate) fn post(&self, event: SandboxEvent) -> bool {
        let mut waiting = self.lock();
        let clock = u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or(0);
        let number = clock.max(waiting.last + 1);
        let (bytes, written) = self.write(number, &event);
        let on_disk = written.is_ok();
        if let Err(error) = written {
            tracing::error!(sandbox = %event.sandbox_id, %error, "write event failed: it waits in memory");
        }
        let event = (!on_disk).then(|| Box::new(event));
        waiting.insert(number, Kept { bytes, event });
        while let Some(oldest) = waiting.excess() {
            waiting.remove(oldest);
            tracing::error!("an event is lost: no control plane takes them");
            let _ = fs::remove_file(self.path(oldest));
        }
        drop(waiting);
        self.news.send_replace(number);
        on_disk
    }

    /// The oldest events with their numbers, up to so many bytes of their texts, but one
    /// at least.
    pub(crate) fn oldest(&self, most_bytes: usize) -> Vec<(u64, SandboxEvent)> {
        let mut waiting = self.lock();
        let (mut found, mut bytes, mut damaged) = (Vec::new(), 0_usize, Vec::new());
        for (number, kept) in &waiting.events {
            let event = match &kept.event {
                Some(event) => Ok((**event).clone()),
                None => read(&self.path(*number)),
            };
            match event {
                Ok(event) => {
                    bytes = bytes.saturating_add(usize::try_from(kept.bytes).unwrap_or(usize::MAX));
                    if bytes > most_bytes && !found.is_empty() {
                        break;
                    }
                    found.push((*number, event));
                }
                Err(error) => {
                    tracing::error!(number, %error, "read event failed");
                    damaged.push(*number);
                }
            }
        }
        for number in damaged {
            waiting.remove(number);
            let path = self.path(number);
            let _ = fs::rename(&path, path.with_extension("damaged"));
        }
        found
    }

    /// Forgets events that are kept elsewhere.
    pub(crate) fn acknowledge(&self, numbers: &[u64]) {
        let mut waiting = self.lock();
        for number in numbers {
            let Some(kept) = waiting.remove(*number) else {
                continue;
            };
            if kept.event.is_none()
                && let Err(error) = fs::remove_file(self.path(*number))
            {
                tracing::warn!(number, %error, "remove acknowledged event failed");
            }
        }
    }

    /// Is told of every event.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// How many bytes the event has, and whether they are on disk.
    fn write(&self, number: u64, event: &SandboxEvent) -> (u64, io::Result<()>) {
        match serde_json::to_vec(event) {
            Ok(text) => (text.len() as u64, self.write_text(number, &text)),
            Err(error) => (0, Err(error.into())),
        }
    }

    fn write_text(&self, number: u64, text: &[u8]) -> io::Result<()> {
        // Under the lock there is one writer.
        let new = self.directory.join(NEW_FILE);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text)?;
        fs::rename(&new, self.path(number))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code panics while it holds the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<SandboxEvent> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let kept = |bytes| Kept { bytes, event: None };
        let mut waiting = Waiting::default();
        waiting.insert(1, kept(MAX_BYTES + 1));
        assert_eq!(waiting.excess(), None, "the newest is never lost");
        waiting.insert(2, kept(1));
        assert_eq!(waiting.excess(), Some(1));
        waiting.remove(1).expect("it waits");
        assert_eq!((waiting.excess(), waiting.bytes), (None, 1));
        for number in 3..=MAX_WAITING as u64 + 2 {
            waiting.insert(number, kept(1));
        }
        assert_eq!(waiting.excess(), Some(2));
    }
}
