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
    pub envd_access_token: String,
    pub traffic_access_token: Option<String>,
    /// Absent means allowed.
    pub allow_internet_access: Option<bool>,
    pub network_json: String,
    pub lifecycle_json: String,
    pub volume_mounts_json: String,
}

/// Where a sandbox is in its life on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    Starting,
    Running,
    Stopping,
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
}
