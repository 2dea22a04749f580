//! What a sandbox is: the settings it was created with and its visible status.
//! These are the node's own types; `service` translates them to the wire.

use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, ExecutionId, SandboxId, TeamId, TemplateId};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Settings of one sandbox, kept in its journal for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub sandbox_id: SandboxId,
    pub template_id: TemplateId,
    pub build_id: BuildId,
    pub team_id: TeamId,
    pub alias: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub env_vars: BTreeMap<String, String>,
    /// What the agent asks of callers; without one it serves whoever reaches it.
    pub envd_access_token: Option<String>,
    pub traffic_access_token: Option<String>,
    /// Absent means allowed.
    pub allow_internet_access: Option<bool>,
    pub network_json: String,
    pub lifecycle_json: String,
    pub volume_mounts_json: String,
    /// What the node does by itself when the time is over.
    #[serde(default)]
    pub timeout_action: TimeoutAction,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutAction {
    #[default]
    Kill,
    Pause {
        memory: bool,
    },
}

/// Where a sandbox is in its life on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    Starting,
    Running,
    /// Its state is being kept; it stops after that.
    Pausing,
    /// Its state is being kept; it goes on.
    Snapshotting,
    /// Kept on disk; holds nothing but that.
    Paused,
    /// Starting again, from what was kept.
    Resuming,
    Stopping,
}

impl SandboxState {
    /// Whether its VM may be running, so that a later daemon takes it over.
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Pausing | Self::Snapshotting)
    }
}

/// The status that others see; a new value is published at every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub spec: std::sync::Arc<SandboxSpec>,
    pub state: SandboxState,
    pub execution_id: ExecutionId,
    pub started_at: DateTime<Utc>,
    pub end_at: DateTime<Utc>,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub envd_version: String,
    /// Host address of the guest's ports; present from `Running` on.
    pub address: Option<Ipv4Addr>,
    /// Present while it is paused, or is starting again.
    pub paused: Option<PausedStatus>,
    /// Number of the change that led to this, among all of this run of the node.
    pub sequence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PausedStatus {
    pub at: DateTime<Utc>,
    /// Whether a resume restores memory; else it boots from the kept disk.
    pub with_memory: bool,
}
