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
    /// By their numbers; those that the disk did not take are here.
    events: BTreeMap<u64, Option<Box<SandboxEvent>>>,
    last: u64,
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
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| {
                let number = name.strip_suffix(".json")?;
                number.parse::<u64>().ok()
            });
            if let Some(number) = number {
                waiting.events.insert(number, None);
                waiting.last = waiting.last.max(number);
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
        waiting.last = number;
        let written = self.write(number, &event);
        let on_disk = written.is_ok();
        if let Err(error) = written {
            tracing::error!(sandbox = %event.sandbox_id, %error, "write event failed: it waits in memory");
        }
        let kept = (!on_disk).then(|| Box::new(event));
        waiting.events.insert(number, kept);
        if waiting.events.len() > MAX_WAITING
            && let Some((oldest, _)) = waiting.events.pop_first()
        {
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
        let (mut found, mut bytes, mut damaged) = (Vec::new(), 0, Vec::new());
        for (number, kept) in &waiting.events {
            let event = match kept {
                Some(event) => serde_json::to_vec(event)
                    .map(|text| (text.len(), (**event).clone()))
                    .map_err(io::Error::from),
                None => read(&self.path(*number)),
            };
            match event {
                Ok((length, event)) => {
                    bytes += length;
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
            waiting.events.remove(&number);
            let path = self.path(number);
            let _ = fs::rename(&path, path.with_extension("damaged"));
        }
        found
    }

    /// Forgets events that are kept elsewhere.
    pub(crate) fn acknowledge(&self, numbers: &[u64]) {
        let mut waiting = self.lock();
        for number in numbers {
            let Some(kept) = waiting.events.remove(number) else {
                continue;
            };
            if kept.is_none()
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

    fn write(&self, number: u64, event: &SandboxEvent) -> io::Result<()> {
        let text = serde_json::to_vec(event)?;
        // Under the lock there is one writer.
        let new = self.directory.join(NEW_FILE);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&text)?;
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

fn read(path: &Path) -> io::Result<(usize, SandboxEvent)> {
    let text = fs::read(path)?;
    Ok((text.len(), serde_json::from_slice(&text)?))
}
