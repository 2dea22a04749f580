//! What a node tells its callers of itself and of its sandboxes' ports.

use hearth_ids::SandboxId;
use std::net::Ipv4Addr;
use tokio_util::sync::CancellationToken;

/// Where the edge finds a sandbox's ports, and what it must ask of callers.
#[derive(Debug, Clone)]
pub struct Target {
    pub sandbox_id: SandboxId,
    pub address: Ipv4Addr,
    pub envd_access_token: Option<String>,
    pub traffic_access_token: Option<String>,
    pub network_json: String,
    /// Cancelled when the sandbox ends.
    pub closed: CancellationToken,
}

/// Facts about the node for its callers.
#[derive(Debug, Clone)]
pub struct Info {
    pub node_id: String,
    pub engine: String,
    pub accelerator: String,
    pub sandboxes: usize,
    pub sandboxes_max: usize,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
}
