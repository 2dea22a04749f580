//! Nodes: the machines that run sandboxes, as their operator sees them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Whether a node takes sandboxes, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// It takes sandboxes.
    Ready,
    /// Nothing new; what runs goes on.
    Draining,
    /// It is registered and has not reported yet.
    Connecting,
    /// It has not been heard of for too long.
    Unhealthy,
    /// It is kept in reserve: nothing new.
    Standby,
}

/// A status that a node is to have.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct NodeStatusChange {
    /// The cluster that the node is in; not checked where it is left out.
    #[serde(rename = "clusterID", default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// `ready`, `draining` or `standby`.
    pub status: NodeStatus,
}

/// A file system of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskMetrics {
    pub mount_point: String,
    pub device: String,
    pub filesystem_type: String,
    pub used_bytes: u64,
    pub total_bytes: u64,
}

/// How much of a node is promised to sandboxes, and how much is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeMetrics {
    /// Virtual processors of its sandboxes.
    #[serde(rename = "allocatedCPU")]
    pub allocated_cpu: u32,
    /// Of all processors together, 0 to 100.
    pub cpu_percent: u32,
    pub cpu_count: u32,
    pub allocated_memory_bytes: u64,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    pub huge_pages_total: u64,
    pub huge_pages_used: u64,
    pub huge_pages_reserved: u64,
    pub huge_page_size_bytes: u64,
    /// Those that hold sandboxes.
    pub disks: Vec<DiskMetrics>,
}

/// A node's processor, as its kernel names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineInfo {
    pub cpu_family: String,
    pub cpu_model: String,
    pub cpu_model_name: String,
    pub cpu_architecture: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub id: String,
    /// One run of its process.
    #[serde(rename = "serviceInstanceID")]
    pub service_instance_id: String,
    /// All nodes that share a database.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub status: NodeStatus,
    #[serde(serialize_with = "crate::time::serialize")]
    pub status_changed_at: DateTime<Utc>,
    /// Sandboxes that are not paused.
    pub sandbox_count: u32,
    pub metrics: NodeMetrics,
    /// Since its process began.
    pub create_successes: u64,
    /// Since its process began.
    pub create_fails: u64,
    /// Sandboxes that are starting; not of a single node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_starting_count: Option<u32>,
    /// Sandboxes that it takes at most.
    pub max_sandboxes: u32,
    /// Sandboxes that a drained node still waits for.
    pub outstanding_work: u32,
    /// Its version of Hearth.
    pub version: String,
    /// The revision of the source that it was built from; empty where that is unknown.
    pub commit: String,
    pub machine_info: MachineInfo,
    /// For people: the machine's name. Hearth's own, as are the fields below.
    pub name: String,
    /// Where its gRPC service is: `unix:PATH` or `HOST:PORT`.
    pub address: String,
    pub labels: BTreeMap<String, String>,
    /// Counts its registrations.
    pub generation: u64,
    /// When this run of it last reported.
    #[serde(
        default,
        serialize_with = "crate::time::option::serialize",
        skip_serializing_if = "Option::is_none"
    )]
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    /// What is amiss with a node that reports, such as that it cannot be reached; of a single
    /// node alone, which is looked at for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
