//! What a node says of its machine and its sandboxes with each heartbeat. It is kept as
//! JSON: what another version leaves out is nothing, and what it adds is not looked at.

use crate::node::{HostUsage, Machine, NodeInfo, SandboxSummary};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a node said of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The engine with its version.
    pub engine: String,
    /// Sandboxes that are not paused.
    pub sandboxes: u32,
    /// Those of them that are starting.
    pub starting: u32,
    /// What it takes at most.
    pub sandboxes_max: u32,
    /// Virtual processors that its sandboxes were promised.
    pub allocated_vcpus: u32,
    /// Memory that its sandboxes were promised.
    pub allocated_memory_bytes: u64,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    /// Creates since its process began.
    pub create_successes: u64,
    pub create_failures: u64,
    pub usage: HostUsage,
    pub machine: Machine,
}

impl NodeReport {
    /// Of a node and of its sandboxes that are not paused.
    #[must_use]
    pub fn new(info: NodeInfo, active: &[Arc<SandboxSummary>]) -> Self {
        let vcpus = active.iter().map(|sandbox| sandbox.vcpus);
        let memory = active.iter().map(|sandbox| u64::from(sandbox.memory_mib));
        Self {
            allocated_vcpus: vcpus.fold(0, u32::saturating_add),
            allocated_memory_bytes: memory.sum::<u64>() << 20,
            accelerator: info.accelerator,
            engine: info.engine,
            sandboxes: info.sandboxes_running,
            starting: info.sandboxes_starting,
            sandboxes_max: info.sandboxes_max,
            memory_total_bytes: info.memory_total_bytes,
            memory_available_bytes: info.memory_available_bytes,
            create_successes: info.create_successes,
            create_failures: info.create_failures,
            usage: info.usage,
            machine: info.machine,
        }
    }

    /// As JSON.
    #[must_use]
    pub fn write(&self) -> String {
        // Numbers and texts: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn read(text: Option<&str>) -> Self {
        let read = text.map(serde_json::from_str).transpose();
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, "read a node's report failed");
            None
        })
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_back_and_those_of_other_versions_are_read() {
        let info = NodeInfo {
            engine: "qemu 7.2".to_owned(),
            sandboxes_running: 3,
            memory_total_bytes: 1 << 40,
            usage: HostUsage {
                cpu_percent: 12,
                disks: vec![crate::Disk {
                    mount_point: "/".to_owned(),
                    ..crate::Disk::default()
                }],
                ..HostUsage::default()
            },
            ..NodeInfo::default()
        };
        let report = NodeReport::new(info, &[]);
        assert_eq!(NodeReport::read(Some(&report.write())), report);
        let other = NodeReport::read(Some("{\"sandboxes\": 4, \"new\": [1]}"));
        assert_eq!((other.sandboxes, other.sandboxes_max), (4, 0));
        for nothing in [None, Some("garbage")] {
            assert_eq!(NodeReport::read(nothing), NodeReport::default());
        }
    }
}
