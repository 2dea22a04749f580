//! The port to what was collected of sandboxes: their logs and the history of what
//! they used. It knows sandboxes that have ended, too.

use crate::Control;
use crate::agent::AgentMetrics;
use crate::auth::Caller;
use crate::error::Error;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{SandboxId, TeamId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries in one answer, at most.
pub const MAX_LOG_ENTRIES: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// One thing that a sandbox told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    pub timestamp: DateTime<Utc>,
    pub level: LogLevel,
    pub message: String,
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogDirection {
    /// The oldest first.
    Forward,
    /// The newest first.
    #[default]
    Backward,
}

/// What is wanted of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Where to begin, in the direction of reading.
    pub cursor: Option<DateTime<Utc>>,
    pub direction: LogDirection,
    pub limit: usize,
    pub least_level: Option<LogLevel>,
    /// A part of the message.
    pub search: Option<String>,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self {
            cursor: None,
            direction: LogDirection::default(),
            limit: MAX_LOG_ENTRIES,
            least_level: None,
            search: None,
        }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("what was collected of the sandbox cannot be read: {0}")]
pub struct TelemetryError(pub String);

/// What was collected.
#[async_trait]
pub trait Telemetry: Send + Sync + 'static {
    /// Whose sandbox it is, or was; `None` when nothing is known of it.
    async fn owner(&self, id: &SandboxId) -> Result<Option<TeamId>, TelemetryError>;
    async fn logs(&self, id: &SandboxId, query: LogQuery) -> Result<Vec<LogEntry>, TelemetryError>;
    /// Samples of a time, the oldest first, evenly thinned out to `most`.
    async fn samples(
        &self,
        id: &SandboxId,
        start: Option<DateTime<Utc>>,
        end: Option<DateTime<Utc>>,
        most: usize,
    ) -> Result<Vec<AgentMetrics>, TelemetryError>;
}

impl Control {
    /// Gives the control plane what was collected; without it there are no logs and
    /// no history. Only the first call counts.
    pub fn connect_telemetry(&self, telemetry: Arc<dyn Telemetry>) {
        let _ = self.telemetry.set(telemetry);
    }

    /// A sandbox's log. That of a sandbox that has ended is there for a while.
    pub async fn sandbox_logs(
        &self,
        caller: &Caller,
        id: &SandboxId,
        query: LogQuery,
    ) -> Result<Vec<LogEntry>, Error> {
        self.sandbox_told(caller, id).await?;
        match self.telemetry.get() {
            Some(telemetry) => telemetry.logs(id, query).await.map_err(Error::internal),
            None => Ok(Vec::new()),
        }
    }

    /// Refuses sandboxes that are not, and were not, the caller's.
    pub(crate) async fn sandbox_told(&self, caller: &Caller, id: &SandboxId) -> Result<(), Error> {
        let Err(error) = self.sandbox_check_visible(caller, id).await else {
            return Ok(());
        };
        let owner = match self.telemetry.get() {
            Some(telemetry) => telemetry.owner(id).await.map_err(Error::internal)?,
            None => None,
        };
        if owner == Some(caller.team_id()) {
            Ok(())
        } else {
            Err(error)
        }
    }
}
