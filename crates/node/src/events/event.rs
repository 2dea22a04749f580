//! What is told of sandboxes, as journals and the outbox hold it.

use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Created,
    /// Its end time or its network settings.
    Updated,
    Paused,
    Resumed,
    /// Its state was kept as a snapshot; it runs on.
    Checkpointed,
    /// Its state was kept for forks; it runs on.
    Forked,
    RolledBack,
    Killed,
}

/// Why a sandbox was paused or killed.
pub mod reason {
    /// Somebody asked for it.
    pub const REQUEST: &str = "request";
    /// Its time was over.
    pub const TIMEOUT: &str = "timeout";
    /// Its VM ended by itself.
    pub const VM_EXITED: &str = "vm_exited";
    /// Its VM was gone when the daemon came back: the host was restarted, or the VM
    /// ended while no daemon ran.
    pub const LOST: &str = "lost";
    /// A rollback did not come to its end.
    pub const ROLLBACK_FAILED: &str = "rollback_failed";
}

/// An event as its sandbox's journal holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Among those of the sandbox, from 1.
    pub sequence: u64,
    pub kind: EventKind,
    /// To the millisecond; rises from event to event.
    pub at: DateTime<Utc>,
    pub execution_id: ExecutionId,
    pub started_at: DateTime<Utc>,
    /// When the execution had ended, where that was before the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub details: Details,
}

/// What only some events tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The end time that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<DateTime<Utc>>,
    /// The network settings that were set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_json: Option<String>,
    /// The build that was made, or gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<BuildId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<SandboxId>,
}

impl Details {
    pub(crate) fn reason(reason: &str) -> Self {
        Self {
            reason: Some(reason.to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn build(build: BuildId) -> Self {
        Self {
            build_id: Some(build),
            ..Self::default()
        }
    }
}

/// An event with what it takes to understand it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxEvent {
    pub sandbox_id: SandboxId,
    pub template_id: TemplateId,
    pub build_id: BuildId,
    pub team_id: TeamId,
    pub metadata: BTreeMap<String, String>,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub event: Event,
}

/// A sandbox's events, as its journal keeps count of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Sequence of the last event.
    pub(super) last: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_at: Option<DateTime<Utc>>,
    /// By what was told so far the sandbox is paused.
    #[serde(default)]
    pub(super) paused: bool,
    /// Those that may not be in the outbox yet.
    pub(super) pending: Vec<Event>,
    /// So many of the pending ones are in it.
    #[serde(skip)]
    pub(super) posted: usize,
}

impl Ledger {
    /// Nothing was ever told: a sandbox that is being made, or was made by a version that
    /// told nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// Whether a sandbox that is paused, or is not, was told to be so.
    pub(crate) fn knows(&self, paused: bool) -> bool {
        self.is_empty() || self.paused == paused
    }
}
