//! What teams and sandboxes used, and how many ran.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// How many sandboxes of a team ran at a time.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamMetric {
    #[serde(serialize_with = "crate::time::serialize")]
    pub timestamp: DateTime<Utc>,
    /// Seconds since 1970.
    pub timestamp_unix: i64,
    /// Running then.
    pub concurrent_sandboxes: u64,
    /// Started or resumed since the entry before it, per second.
    pub sandbox_start_rate: f64,
}

/// The most of something.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaxTeamMetric {
    /// When it first was so much.
    #[serde(serialize_with = "crate::time::serialize")]
    pub timestamp: DateTime<Utc>,
    /// Seconds since 1970.
    pub timestamp_unix: i64,
    pub value: f64,
}

/// What was used in a time.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Times that sandboxes ran without a pause.
    pub executions: u64,
    /// Seconds, each times its processors.
    pub vcpu_seconds: f64,
    /// Seconds, each times its memory in GiB.
    #[serde(rename = "memoryGiBSeconds")]
    pub memory_gib_seconds: f64,
}

/// What a sandbox used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SandboxUsage {
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(flatten)]
    pub usage: Usage,
}

/// What a team used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TeamUsage {
    #[serde(rename = "teamID")]
    pub team_id: String,
    /// From then.
    #[serde(serialize_with = "crate::time::serialize")]
    pub start: DateTime<Utc>,
    /// To before then.
    #[serde(serialize_with = "crate::time::serialize")]
    pub end: DateTime<Utc>,
    #[serde(flatten)]
    pub usage: Usage,
}
