//! What operators send and read of all teams.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// What a team may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamLimits {
    /// Sandboxes that run at the same time.
    pub concurrent_sandboxes: u32,
    /// The longest time, in hours, that a sandbox may be given at once.
    pub max_length_hours: u32,
    /// Processors of one sandbox.
    pub max_vcpus: u32,
    /// Memory of one sandbox.
    #[serde(rename = "maxMemoryMiB")]
    pub max_memory_mib: u32,
    /// Disk of one sandbox.
    #[serde(rename = "maxDiskMiB")]
    pub max_disk_mib: u32,
    /// Processors of all running sandboxes together; 4294967295 is no limit.
    pub total_vcpus: u32,
    /// Memory of all running sandboxes together; 4294967295 is no limit.
    #[serde(rename = "totalMemoryMiB")]
    pub total_memory_mib: u32,
    /// Sandboxes that are paused.
    pub paused_sandboxes: u32,
    /// Snapshots, each name counted once.
    pub snapshots: u32,
    /// Templates that are no snapshots.
    pub templates: u32,
    /// Volumes.
    pub volumes: u32,
    /// Disk that builds of templates and snapshots take together.
    #[serde(rename = "storedMiB")]
    pub stored_mib: u32,
}

/// Limits to be changed; what is left out stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TeamLimitsChange {
    /// Sandboxes that run at the same time.
    pub concurrent_sandboxes: Option<u32>,
    /// The longest time, in hours, that a sandbox may be given at once.
    pub max_length_hours: Option<u32>,
    /// Processors of one sandbox.
    pub max_vcpus: Option<u32>,
    /// Memory of one sandbox.
    #[serde(rename = "maxMemoryMiB")]
    pub max_memory_mib: Option<u32>,
    /// Disk of one sandbox.
    #[serde(rename = "maxDiskMiB")]
    pub max_disk_mib: Option<u32>,
    /// Processors of all running sandboxes together; 4294967295 is no limit.
    pub total_vcpus: Option<u32>,
    /// Memory of all running sandboxes together; 4294967295 is no limit.
    #[serde(rename = "totalMemoryMiB")]
    pub total_memory_mib: Option<u32>,
    /// Sandboxes that are paused.
    pub paused_sandboxes: Option<u32>,
    /// Snapshots, each name counted once.
    pub snapshots: Option<u32>,
    /// Templates that are no snapshots.
    pub templates: Option<u32>,
    /// Volumes.
    pub volumes: Option<u32>,
    /// Disk that builds of templates and snapshots take together.
    #[serde(rename = "storedMiB")]
    pub stored_mib: Option<u32>,
}

/// A team to be made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewTeam {
    /// The namespace of the team's templates.
    #[schema(pattern = "^[a-z0-9_-]+$", max_length = 64)]
    pub slug: String,
    /// What it may use; as the first team where left out.
    #[serde(default)]
    pub limits: Option<TeamLimitsChange>,
}

/// Changes to a team; what is left out stays.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateTeam {
    /// What it may use.
    #[serde(default)]
    pub limits: Option<TeamLimitsChange>,
    /// Whether all of its requests are refused.
    #[serde(default)]
    pub banned: Option<bool>,
    /// Lets it look and clean up alone, and is told to it; null takes that back.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub blocked_reason: Option<Option<String>>,
}

/// Null is something else than absence here.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What a team's sandboxes and builds take at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamAllocated {
    /// Sandboxes that run, or are on their way to.
    pub running_sandboxes: u64,
    /// Processors of those.
    pub vcpus: u64,
    /// Memory of those.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Sandboxes that are paused.
    pub paused_sandboxes: u64,
    /// Size of the disks of all sandboxes, paused ones among them.
    #[serde(rename = "diskMiB")]
    pub disk_mib: u64,
    /// Bytes that builds of templates and snapshots account for.
    pub stored_bytes: u64,
}

/// A team as operators see it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamDetail {
    #[serde(rename = "teamID")]
    pub team_id: String,
    /// The namespace of the team's templates.
    pub slug: String,
    pub name: String,
    /// What it may use.
    pub limits: TeamLimits,
    /// What its sandboxes and builds take now; where one team is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated: Option<TeamAllocated>,
    /// `settings` or `operator`.
    pub limits_set_by: &'static str,
    /// Whether all of its requests are refused.
    pub banned: bool,
    /// Why it may only look and clean up.
    pub blocked_reason: Option<String>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub created_at: DateTime<Utc>,
}

/// What became of a team's sandboxes.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KilledSandboxes {
    /// So many ended.
    pub killed_count: usize,
    /// So many could not be ended: ask again.
    pub failed_count: usize,
}

/// What became of a team's template builds.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancelledBuilds {
    /// So many were given up.
    pub cancelled_count: usize,
    /// So many could not be given up: ask again.
    pub failed_count: usize,
}
