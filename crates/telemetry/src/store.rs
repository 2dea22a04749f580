//! What was collected, on disk: one directory per sandbox with its owner, its log
//! and its samples. Writing is for the collector alone; reading may happen at any
//! time, from files that only grow or are replaced.

use crate::segments::{Appender, Framing, Segments};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_control::{AgentMetrics, LogDirection, LogEntry, LogQuery, Telemetry, TelemetryError};
use hearth_ids::{SandboxId, TeamId};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const OWNER: &str = "owner.json";
const LOG: &str = "log.ndjson";
/// What the sandbox's programs logged at the node's service for events.
const EVENTS: &str = "events.ndjson";
const SAMPLES: &str = "samples.bin";
const SAMPLE_BYTES: usize = 64;

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Half of the bytes of one sandbox's log, at most.
    pub log_segment_bytes: u64,
    /// Half of the bytes of what one sandbox's programs log at the node, at most.
    pub event_segment_bytes: u64,
    /// Half of the samples of one sandbox, at most.
    pub sample_segment: u64,
    /// Bytes of all sandboxes together; those that told nothing for the longest time
    /// are forgotten first.
    pub total_bytes: u64,
    /// How long the last words of a sandbox are kept.
    pub keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            log_segment_bytes: 4 << 20,
            event_segment_bytes: 1 << 20,
            // Twelve hours, at one sample every five seconds.
            sample_segment: 12 * 3600 / 5,
            total_bytes: 2 << 30,
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Logs and samples of all sandboxes, one folder for each. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
}

#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    team_id: TeamId,
}

/// Where the collector adds to one sandbox's records.
#[derive(Debug)]
pub struct Writer {
    log: Appender,
    samples: Appender,
}

impl Store {
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: PathBuf, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        // What tenants run and print is nobody's business on this host.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700))?;
        Ok(Self { root, limits })
    }

    fn directory(&self, id: &SandboxId) -> PathBuf {
        self.root.join(id.as_str())
    }

    fn log(&self, directory: &Path) -> Segments {
        Segments::new(directory, LOG, self.limits.log_segment_bytes)
    }

    fn events(&self, directory: &Path) -> Segments {
        Segments::new(directory, EVENTS, self.limits.event_segment_bytes)
    }

    fn samples(&self, directory: &Path) -> Segments {
        let limit = self.limits.sample_segment * SAMPLE_BYTES as u64;
        Segments::new(directory, SAMPLES, limit)
    }

    /// Blocking.
    ///
    /// # Errors
    /// When the files cannot be made or opened.
    pub fn writer(&self, id: &SandboxId, team_id: TeamId) -> io::Result<Writer> {
        let directory = self.owned_directory(id, team_id)?;
        Ok(Writer {
            log: self.log(&directory).appender(Framing::Lines)?,
            samples: self
                .samples(&directory)
                .appender(Framing::Fixed(SAMPLE_BYTES as u64))?,
        })
    }

    /// Adds to what a sandbox's programs logged at the node. One at a time for each
    /// sandbox. Blocking.
    ///
    /// # Errors
    /// When the disk takes no more.
    pub fn add_events(
        &self,
        id: &SandboxId,
        team_id: TeamId,
        entries: &[LogEntry],
    ) -> io::Result<()> {
        let directory = self.owned_directory(id, team_id)?;
        let mut events = self.events(&directory).appender(Framing::Lines)?;
        events.append(&text(entries)?)
    }

    /// The directory of a sandbox, with its owner's name in it.
    fn owned_directory(&self, id: &SandboxId, team_id: TeamId) -> io::Result<PathBuf> {
        let directory = self.directory(id);
        fs::create_dir_all(&directory)?;
        let owner = directory.join(OWNER);
        if !owner.try_exists()? {
            let text = serde_json::to_vec(&Owner { team_id })?;
            // Two writers may begin at once; both say the same.
            let fresh = directory.join(format!("owner.new-{:?}", std::thread::current().id()));
            fs::write(&fresh, text)?;
            fs::rename(fresh, owner)?;
        }
        Ok(directory)
    }

    /// The time of a sandbox's last entry in Unix microseconds; 0 when there is none.
    /// Blocking.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn last_id(&self, id: &SandboxId) -> io::Result<u64> {
        let bytes = self.log(&self.directory(id)).read()?;
        Ok(lines(&bytes).last().map_or(0, |(at, _)| at))
    }

    /// Forgets what is too old, and the oldest while there is too much. Blocking.
    ///
    /// # Errors
    /// When the directory of all cannot be read.
    pub fn prune(&self, now: SystemTime) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.root)?.flatten() {
            // What cannot be looked at now is not known to be old.
            let Ok((changed, bytes)) = weigh(&entry.path()) else {
                continue;
            };
            let age = now.duration_since(changed).unwrap_or_default();
            if age > self.limits.keep {
                forget(&entry.path());
            } else {
                kept.push((changed, bytes, entry.path()));
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in kept {
            if total <= self.limits.total_bytes {
                break;
            }
            forget(&path);
            total -= bytes;
        }
        Ok(())
    }

    fn read_owner(&self, id: &SandboxId) -> Option<TeamId> {
        let text = fs::read(self.directory(id).join(OWNER)).ok()?;
        let owner: Owner = serde_json::from_slice(&text).ok()?;
        Some(owner.team_id)
    }

    fn read_log(&self, id: &SandboxId, query: &LogQuery) -> io::Result<Vec<LogEntry>> {
        let directory = self.directory(id);
        let (log, events) = (
            self.log(&directory).read()?,
            self.events(&directory).read()?,
        );
        let mut all: Vec<(u64, &[u8])> = lines(&log).chain(lines(&events)).collect();
        all.sort_by_key(|(at, _)| *at);
        let asked = |at: u64| match (query.cursor, query.direction) {
            (None, _) => true,
            (Some(cursor), LogDirection::Forward) => micros(cursor) <= at,
            // A cursor has milliseconds; all within its own count.
            (Some(cursor), LogDirection::Backward) => at < micros(cursor).saturating_add(1000),
        };
        let matching = all
            .into_iter()
            .filter(|(at, _)| asked(*at))
            .filter_map(|(_, line)| serde_json::from_slice::<LogEntry>(line).ok())
            .filter(|entry| query.least_level.is_none_or(|least| entry.level >= least))
            .filter(|entry| {
                let search = query.search.as_deref();
                search.is_none_or(|search| entry.message.contains(search))
            });
        Ok(match query.direction {
            LogDirection::Forward => matching.take(query.limit).collect(),
            LogDirection::Backward => {
                let mut all: Vec<_> = matching.collect();
                all.reverse();
                all.truncate(query.limit);
                all
            }
        })
    }

    fn read_samples(
        &self,
        id: &SandboxId,
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
        most: usize,
    ) -> io::Result<Vec<AgentMetrics>> {
        let bytes = self.samples(&self.directory(id)).read()?;
        let all: Vec<AgentMetrics> = bytes
            .chunks_exact(SAMPLE_BYTES)
            .filter_map(decode)
            .filter(|sample| start.is_none_or(|start| sample.at >= start))
            .filter(|sample| end.is_none_or(|end| sample.at <= end))
            .collect();
        // Evenly thinned out, the last one always among them.
        let step = all.len().div_ceil(most.max(1)).max(1);
        let skip = all.len().wrapping_sub(1) % step;
        Ok(all.into_iter().skip(skip).step_by(step).collect())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, TelemetryError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|error| TelemetryError(error.to_string()))?
            .map_err(|error| TelemetryError(error.to_string()))
    }
}

#[async_trait]
impl Telemetry for Store {
    async fn owner(&self, id: &SandboxId) -> Result<Option<TeamId>, TelemetryError> {
        let id = id.clone();
        self.blocking(move |store| Ok(store.read_owner(&id))).await
    }

    async fn logs(&self, id: &SandboxId, query: LogQuery) -> Result<Vec<LogEntry>, TelemetryError> {
        let id = id.clone();
        self.blocking(move |store| store.read_log(&id, &query))
            .await
    }

    async fn samples(
        &self,
        id: &SandboxId,
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
        most: usize,
    ) -> Result<Vec<AgentMetrics>, TelemetryError> {
        let id = id.clone();
        self.blocking(move |store| store.read_samples(&id, start, end, most))
            .await
    }
}

impl Writer {
    /// Blocking.
    ///
    /// # Errors
    /// When the disk takes no more.
    pub fn log(&mut self, entries: &[LogEntry]) -> io::Result<()> {
        self.log.append(&text(entries)?)
    }

    /// Blocking.
    ///
    /// # Errors
    /// When the disk takes no more.
    pub fn sample(&mut self, sample: &AgentMetrics) -> io::Result<()> {
        self.samples.append(&encode(sample))
    }
}

/// Entries as lines of a log.
fn text(entries: &[LogEntry]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for entry in entries {
        // The time in front lets readers skip without parsing.
        text.extend_from_slice(format!("{:020} ", micros(entry.timestamp)).as_bytes());
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// The lines of a log with their times.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let (at, entry) = line.split_at_checked(20)?;
        let at = std::str::from_utf8(at).ok()?.parse().ok()?;
        Some((at, entry.strip_prefix(b" ")?))
    })
}

fn micros(time: DateTime<Utc>) -> u64 {
    u64::try_from(time.timestamp_micros()).unwrap_or(0)
}

fn encode(sample: &AgentMetrics) -> [u8; SAMPLE_BYTES] {
    let words = [
        micros(sample.at),
        u64::from(sample.cpu_count),
        sample.cpu_used_pct.to_bits(),
        sample.mem_used,
        sample.mem_total,
        sample.mem_cache,
        sample.disk_used,
        sample.disk_total,
    ];
    let mut bytes = [0; SAMPLE_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<AgentMetrics> {
    let mut words = bytes.chunks_exact(8).map(|chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let at = i64::try_from(words.next()?).ok()?;
    Some(AgentMetrics {
        at: DateTime::from_timestamp_micros(at)?,
        cpu_count: u32::try_from(words.next()?).ok()?,
        cpu_used_pct: f64::from_bits(words.next()?),
        mem_used: words.next()?,
        mem_total: words.next()?,
        mem_cache: words.next()?,
        disk_used: words.next()?,
        disk_total: words.next()?,
    })
}

/// When anything in a directory was last changed, and how many bytes it holds.
fn weigh(directory: &Path) -> io::Result<(SystemTime, u64)> {
    let (mut latest, mut bytes) = (fs::metadata(directory)?.modified()?, 0);
    for file in fs::read_dir(directory)? {
        match file?.metadata() {
            Ok(metadata) => {
                latest = latest.max(metadata.modified()?);
                bytes += metadata.len();
            }
            // Replaced by its successor meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((latest, bytes))
}

fn forget(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!(%error, directory = %directory.display(), "remove a sandbox's telemetry failed");
    }
}

#[cfg(test)]
mod tests;
