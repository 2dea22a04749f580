//! The queue, the thread that writes, and the files.

use crate::budget::Budgets;
use crate::record::Record;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Records on their way to the disk.
const QUEUE: usize = 8192;
/// How long a written record may be in the kernel's cache alone.
const SYNC_EVERY: Duration = Duration::from_secs(1);
const MODE: u32 = 0o600;

/// How much is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Size in MiB at which a file is rotated.
    pub file_mib: u64,
    /// Files that are kept, with the one that is written to; at least 1.
    pub files: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file_mib: 64,
            files: 8,
        }
    }
}

/// The log cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("open the audit log {path}")]
pub struct Error {
    path: String,
    source: io::Error,
}

impl Error {
    /// Whether there was no room on the disk.
    #[must_use]
    pub fn is_storage_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

/// A log that records are given to.
pub struct AuditLog {
    sender: Mutex<Option<SyncSender<Record>>>,
    lost: Arc<AtomicU64>,
    /// Closed when the writer has ended.
    ended: Mutex<Receiver<()>>,
}

impl AuditLog {
    /// Opens the file for appending and starts the writer.
    pub fn start(path: &Path, config: &Config) -> Result<Self, Error> {
        let wrap = |source| Error {
            path: path.display().to_string(),
            source,
        };
        let files = Files::open(path, config).map_err(wrap)?;
        let lost = Arc::<AtomicU64>::default();
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let (end, ended) = mpsc::channel();
        let writer = Writer {
            files,
            budgets: Budgets::default(),
            lost: Arc::clone(&lost),
            failing: false,
        };
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                writer.run(&receiver);
                drop(end);
            })
            .map_err(wrap)?;
        Ok(Self {
            sender: Mutex::new(Some(sender)),
            lost,
            ended: Mutex::new(ended),
        })
    }

    /// Queues a record. Never waits: when the queue is full, or the log has been
    /// stopped, the record is counted as lost.
    pub fn record(&self, mut record: Record) {
        // Before it waits, so that the queue is bounded in bytes as well.
        record.cut();
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = match sender.as_ref() {
            Some(sender) => sender.try_send(record),
            None => Err(TrySendError::Disconnected(record)),
        };
        if queued.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes no more records and waits until all that are queued are on the disk, at
    /// most `limit`. Answers whether they are. Blocks.
    pub fn stop(&self, limit: Duration) -> bool {
        drop(
            self.sender
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }
}

/// Appends one record, for a process other than the log's own. Blocks.
pub fn append(path: &Path, record: Record) -> Result<(), Error> {
    let written = open_locked(path).and_then(|mut file| {
        let mut line = record.line();
        if ends_torn(path)? {
            line.insert(0, b'\n');
        }
        // One line is one write: the kernel keeps those of several processes apart.
        file.write_all(&line)
    });
    written.map_err(|source| Error {
        path: path.display().to_string(),
        source,
    })
}

/// Opens the log and keeps it from being rotated while the file is open.
fn open_locked(path: &Path) -> io::Result<File> {
    loop {
        let file = open(path)?;
        file.lock_shared()?;
        // It may have been rotated between the two, and be an old file by now.
        match fs::metadata(path) {
            Ok(on_disk) if same_file(&on_disk, &file.metadata()?) => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

fn same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

struct Writer {
    files: Files,
    budgets: Budgets,
    lost: Arc<AtomicU64>,
    /// The last write failed; the log has been told.
    failing: bool,
}

impl Writer {
    fn run(mut self, records: &Receiver<Record>) {
        let (mut synced, mut looked) = (Instant::now(), Instant::now());
        let mut dirty = false;
        loop {
            match records.recv_timeout(SYNC_EVERY) {
                Ok(record) => {
                    if let Some(record) = self.budgets.admit(record, Instant::now()) {
                        self.write(record);
                        dirty = true;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tell_lost();
            if looked.elapsed() >= SYNC_EVERY {
                looked = Instant::now();
                for record in self.budgets.due(looked) {
                    self.write(record);
                    dirty = true;
                }
            }
            if dirty && synced.elapsed() >= SYNC_EVERY {
                self.files.sync();
                (synced, dirty) = (Instant::now(), false);
            }
        }
        for record in self.budgets.rest() {
            self.write(record);
        }
        self.tell_lost();
        self.files.sync();
    }

    fn write(&mut self, record: Record) -> bool {
        let result = self.files.append(&record.line());
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.files.path.display();
                    tracing::error!(%error, %path, "write the audit log failed");
                }
            }
        }
        !self.failing
    }

    /// Says how many records are missing, as soon as something can be said again.
    fn tell_lost(&mut self) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost == 0 || self.failing {
            return;
        }
        if self.write(Record::lost(lost)) {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
            tracing::warn!(records = lost, "audit records were lost");
        } else {
            // The record of what was lost is none itself.
            self.lost.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Files {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    kept: u32,
    /// The file ends in the middle of a line.
    torn: bool,
}

impl Files {
    fn open(path: &Path, config: &Config) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self {
            size: file.metadata()?.len(),
            torn: ends_torn(path)?,
            path: path.to_owned(),
            file,
            limit: config.file_mib.max(1).saturating_mul(1 << 20),
            kept: config.files.max(1),
        })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.limit {
            self.rotate();
        }
        let torn = std::mem::replace(&mut self.torn, true);
        if torn && self.file.metadata()?.len() > 0 {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(line)?;
        self.torn = false;
        self.size += line.len() as u64 + u64::from(torn);
        Ok(())
    }

    /// Puts the file aside as the newest of the old ones, of which the oldest goes. On
    /// a failure it grows on: better too large than lost. It is tried again after
    /// another tenth of the limit.
    fn rotate(&mut self) {
        self.sync();
        // What may fail for want of room comes first: then the old files are not touched.
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let rotated = open(Path::new(&fresh)).and_then(|file| {
            // Another process that is about to append holds it for a moment: what it
            // writes is to be in a file that is kept.
            self.file.try_lock().map_err(|error| match error {
                TryLockError::Error(error) => error,
                TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            })?;
            self.shift()?;
            fs::rename(&fresh, &self.path)?;
            Ok(file)
        });
        match rotated {
            Ok(file) => {
                self.file = file;
                (self.size, self.torn) = (0, false);
            }
            Err(error) => {
                let _ = self.file.unlock();
                tracing::warn!(%error, path = %self.path.display(), "rotate the audit log failed");
                self.size = self.limit - self.limit / 10;
            }
        }
    }

    fn shift(&self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.kept == 1 {
            // The new one takes its place.
            return Ok(());
        }
        for number in (1..self.kept - 1).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))
    }

    /// Brings what was written to the disk, and follows the path if somebody moved the
    /// file away.
    fn sync(&mut self) {
        if let Err(error) = self.file.sync_data() {
            tracing::warn!(%error, path = %self.path.display(), "sync the audit log failed");
        }
        let held = self.file.metadata();
        let in_place = match (fs::metadata(&self.path), &held) {
            (Ok(on_disk), Ok(held)) => same_file(&on_disk, held),
            (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
            _ => true,
        };
        if in_place {
            // Another process may have appended.
            self.size = held.map_or(self.size, |held| held.len());
        } else if let Ok(file) = open(&self.path) {
            self.size = file.metadata().map_or(0, |metadata| metadata.len());
            (self.file, self.torn) = (file, false);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(MODE)
        .open(path)
}

/// Whether a writer was cut off in the middle of a line.
fn ends_torn(path: &Path) -> io::Result<bool> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests;
