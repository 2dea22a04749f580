//! Sandboxes: what callers ask for and what they read back.
//!
//! Both generations of the create and connect calls share a type here, for their
//! fields are the same but for `secure`; their defaults differ and are applied
//! where the request is turned into the application's terms.

use crate::NetworkConfig;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A request for a new sandbox.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewSandbox {
    /// A template's id, or `[namespace/]alias[:tag]`.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Seconds to live. 15 when left out of `POST /sandboxes`, 300 when left out
    /// of `POST /v2/sandboxes`.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub timeout: Option<i64>,
    /// Pause instead of killing when the time is over.
    #[serde(default)]
    pub auto_pause: Option<bool>,
    /// Whether that pause keeps the memory.
    #[serde(default)]
    pub auto_pause_memory: Option<bool>,
    #[serde(default)]
    pub auto_resume: Option<AutoResume>,
    /// Only in `POST /sandboxes`: false makes a sandbox whose agent asks callers for no
    /// token. One that is left out is true; `/v2/sandboxes` knows no other.
    #[serde(default)]
    pub secure: Option<bool>,
    #[serde(default, rename = "allow_internet_access")]
    pub allow_internet_access: Option<bool>,
    #[serde(default)]
    pub network: Option<NetworkConfig>,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Taken and not needed: the SDKs start the gateway themselves, in the sandbox.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub mcp: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    pub iam: Option<Iam>,
    #[serde(default)]
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
pub struct AutoResume {
    pub enabled: bool,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct Iam {
    #[serde(default)]
    pub tokens: Option<BTreeMap<String, IamToken>>,
}

#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IamToken {
    pub audience: String,
    pub token_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct VolumeMount {
    pub name: String,
    pub path: String,
}

/// A sandbox as create and connect answer it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub envd_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Absent where the agent asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    /// Null where the sandbox's URLs are public.
    pub traffic_access_token: Option<String>,
    pub domain: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    Running,
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    Kill,
    Pause,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    pub auto_resume: bool,
    pub on_timeout: OnTimeout,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDetail {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(rename = "clientID")]
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub started_at: DateTime<Utc>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub end_at: DateTime<Utc>,
    pub envd_version: String,
    /// Absent where the agent asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    pub allow_internet_access: Option<bool>,
    pub domain: String,
    pub cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u32,
    pub metadata: BTreeMap<String, String>,
    pub state: SandboxState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    pub lifecycle: Lifecycle,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// What is kept of it, while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_mode: Option<PauseMode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// Memory and disk.
    Full,
    /// The disk alone: the next start boots.
    Filesystem,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedSandbox {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(rename = "clientID")]
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub started_at: DateTime<Utc>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub end_at: DateTime<Utc>,
    pub cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u32,
    pub metadata: BTreeMap<String, String>,
    pub state: SandboxState,
    pub envd_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

/// `timeout` is required by `/sandboxes/{id}/connect` and 300 when left out of
/// `/v2/sandboxes/{id}/connect`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct ConnectSandbox {
    #[serde(default)]
    #[schema(minimum = 0)]
    pub timeout: Option<i64>,
    #[serde(default)]
    pub memory: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResumeSandbox {
    #[serde(default)]
    #[schema(minimum = 0)]
    pub timeout: Option<i64>,
    /// Taken and not looked at: what a sandbox was made with stays.
    #[serde(default)]
    pub auto_pause: Option<bool>,
    #[serde(default)]
    pub memory: Option<bool>,
}

/// Seconds from now.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct TimeoutSandbox {
    #[schema(minimum = 0)]
    pub timeout: i64,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct RefreshSandbox {
    /// Seconds from now; 15 when left out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 3600)]
    pub duration: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseSandbox {
    /// False keeps the disk alone.
    #[serde(default)]
    pub memory: Option<bool>,
    #[serde(default)]
    pub require_healthy_guest: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct ForkSandbox {
    #[serde(default)]
    pub timeout: Option<i64>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100)]
    pub count: Option<i64>,
}

/// One fork: a sandbox, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ForkResult {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::ApiError>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub struct SnapshotSandbox {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub memory: Option<bool>,
}

#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct RollbackSandbox {
    /// A snapshot of this sandbox, as `POST /sandboxes/{sandboxID}/snapshots`
    /// answered it, or what the sandbox was made of.
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnapshotInfo {
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
    pub names: Vec<String>,
}
