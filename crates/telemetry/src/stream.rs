//! The lines of an agent's `/telemetry` stream, as far as a guest may be believed.

use chrono::{DateTime, Utc};
use hearth_control::{AgentMetrics, LogEntry, LogLevel};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The longest line that is read.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Fields of an entry that are kept.
const MAX_FIELDS: usize = 32;

/// One line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// Log entries.
    Batch(Batch),
    /// A sample of the metrics.
    Metrics(Sample),
}

/// Log entries that the guest sends together.
#[derive(Debug, Deserialize)]
pub struct Batch {
    /// In the order of their making.
    #[serde(default)]
    pub entries: Vec<Entry>,
    /// Entries that the guest could not keep.
    #[serde(default)]
    pub lost: u64,
}

/// One log entry of a guest.
#[derive(Debug, Deserialize)]
pub struct Entry {
    /// Unix time in microseconds.
    pub id: u64,
    /// How important it is.
    pub level: Level,
    /// What in the guest wrote it.
    pub logger: String,
    /// The text.
    pub message: String,
    /// More about it, by name.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

/// How important an entry is.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For who looks for a fault.
    Debug,
    /// What happens in the ordinary course.
    Info,
    /// What may become a fault.
    Warn,
    /// A fault.
    Error,
}

/// The metrics of a guest at one moment.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Sample {
    /// Unix time in seconds.
    pub ts: i64,
    /// Virtual processors.
    pub cpu_count: u32,
    /// Use of one processor in per cent: up to 100 for each.
    pub cpu_used_pct: f64,
    /// Bytes of memory in use, caches left out.
    pub mem_used: u64,
    /// Bytes of memory.
    pub mem_total: u64,
    /// Bytes of memory that hold files.
    pub mem_cache: u64,
    /// Bytes of the disk in use.
    pub disk_used: u64,
    /// Bytes of the disk.
    pub disk_total: u64,
}

impl Entry {
    /// The entry as it is kept; `None` when its time is none.
    #[must_use]
    pub fn accept(self) -> Option<LogEntry> {
        let micros = i64::try_from(self.id).ok()?;
        let mut fields: BTreeMap<String, String> =
            self.fields.into_iter().take(MAX_FIELDS).collect();
        fields.insert("logger".to_owned(), self.logger);
        Some(LogEntry {
            timestamp: DateTime::from_timestamp_micros(micros)?,
            level: match self.level {
                Level::Debug => LogLevel::Debug,
                Level::Info => LogLevel::Info,
                Level::Warn => LogLevel::Warn,
                Level::Error => LogLevel::Error,
            },
            message: self.message,
            fields,
        })
    }
}

impl Sample {
    /// The sample as it is kept. The time is the host's: histories must be in order,
    /// whatever a guest's clock says.
    #[must_use]
    pub fn accept(self, at: DateTime<Utc>) -> AgentMetrics {
        let percent = self.cpu_used_pct;
        AgentMetrics {
            at,
            cpu_count: self.cpu_count,
            cpu_used_pct: if percent.is_finite() { percent } else { 0.0 },
            mem_used: self.mem_used,
            mem_total: self.mem_total,
            mem_cache: self.mem_cache,
            disk_used: self.disk_used,
            disk_total: self.disk_total,
        }
    }
}
