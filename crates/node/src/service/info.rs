//! The service that tells what the node is and how it is.

use super::Service;
use super::messages::connect_error;
use crate::host::{self, HostReport};
use buffa::MessageField;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};
use hearth_node_proto::hearth::node::v1 as proto;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of the creates that were asked for.
#[derive(Debug, Default)]
pub(super) struct Creates {
    successes: AtomicU64,
    failures: AtomicU64,
}

impl Creates {
    pub(super) fn count(&self, made: bool) {
        let counter = match made {
            true => &self.successes,
            false => &self.failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(refining_impl_trait, reason = "the concrete response types say more")]
impl proto::InfoService for Service {
    async fn service_info(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, proto::ServiceInfoRequest>,
    ) -> ServiceResult<proto::ServiceInfoResponse> {
        let info = self.node.info().map_err(connect_error)?;
        let shared = &self.node.shared;
        let starting = shared.registry.count().starting;
        let host = self.host.report(&shared.config.state_dir);
        Response::ok(proto::ServiceInfoResponse {
            node_id: info.node_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accelerator: info.accelerator,
            engine: info.engine,
            sandboxes_running: u32::try_from(info.sandboxes).unwrap_or(u32::MAX),
            sandboxes_max: u32::try_from(info.sandboxes_max).unwrap_or(u32::MAX),
            memory_total_bytes: info.memory_total_bytes,
            memory_available_bytes: info.memory_available_bytes,
            sandboxes_starting: u32::try_from(starting).unwrap_or(u32::MAX),
            create_successes: self.creates.successes.load(Ordering::Relaxed),
            create_failures: self.creates.failures.load(Ordering::Relaxed),
            usage: MessageField::some(usage(host)),
            machine: MessageField::some(machine(host::machine())),
            ..Default::default()
        })
    }
}

fn usage(host: HostReport) -> proto::HostUsage {
    let disk = |disk: host::Disk| proto::Disk {
        mount_point: disk.mount_point,
        device: disk.device,
        filesystem_type: disk.filesystem_type,
        used_bytes: disk.used_bytes,
        total_bytes: disk.total_bytes,
        ..Default::default()
    };
    proto::HostUsage {
        cpu_percent: host.cpu_percent,
        cpu_count: host.cpu_count,
        huge_pages_total: host.huge_pages.total,
        huge_pages_used: host.huge_pages.used,
        huge_pages_reserved: host.huge_pages.reserved,
        huge_page_size_bytes: host.huge_pages.size_bytes,
        disks: host.disks.into_iter().map(disk).collect(),
        ..Default::default()
    }
}

fn machine(machine: &host::Machine) -> proto::Machine {
    proto::Machine {
        cpu_family: machine.cpu_family.clone(),
        cpu_model: machine.cpu_model.clone(),
        cpu_model_name: machine.cpu_model_name.clone(),
        cpu_architecture: machine.cpu_architecture.clone(),
        ..Default::default()
    }
}
