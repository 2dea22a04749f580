//! What a sandbox holds of the host, in the order in which it is taken: a network
//! slot, a disk that is served over NBD, a VM process. Each may be absent, while
//! a start is under way or after one failed; giving back takes what is there.

use super::{ground::Ground, setup};
use crate::{error::Error, journal::Record, node::Shared, recovery::remove_dir};
use hearth_block::{Device, SealingLayer, server::ServerHandle};
use hearth_ids::SandboxId;
use hearth_machine::Machine;
use hearth_network::Slot;
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

/// A writable layer over a build's disk, and the server that QEMU reads it from.
pub(crate) struct Disk {
    pub device: Arc<Device>,
    pub server: ServerHandle,
    /// Layers that take no more writes but are not known to be durable yet.
    pub sealing: Vec<SealingLayer>,
}

#[derive(Default)]
pub(crate) struct Resources {
    pub slot: Option<Slot>,
    pub disk: Option<Disk>,
    pub machine: Option<Box<dyn Machine>>,
    /// Directory of sockets and console.
    pub run_dir: Option<PathBuf>,
    /// Name of the VM process's control group.
    pub cgroup: Option<String>,
}

impl Resources {
    /// Takes up again what a running VM uses. A part that cannot be had is left
    /// out and logged: the VM then ends or stalls, which its driver sees.
    pub(crate) async fn adopt(
        shared: &Shared,
        ground: &Ground,
        record: &Record,
        machine: Box<dyn Machine>,
    ) -> Self {
        let id = &record.spec.sandbox_id;
        let slot = record.slot.and_then(|index| shared.slots.adopted(index));
        if slot.is_none() {
            tracing::error!(sandbox = %id, slot = ?record.slot, "an adopted sandbox lost its network slot");
        }
        if let Some(slot) = &slot {
            super::egress::announce(
                shared,
                &record.spec,
                slot,
                super::egress::rules(&record.spec),
            );
        }
        let uid = slot.as_ref().map_or(0, |slot| slot.uid);
        let disk = match setup::open_disk(shared, ground, record, uid).await {
            Ok(disk) => Some(disk),
            Err(error) => {
                tracing::error!(sandbox = %id, error = %crate::error::chain(&error), "an adopted sandbox's disk cannot be served");
                None
            }
        };
        Self {
            slot,
            disk,
            machine: Some(machine),
            run_dir: Some(setup::run_dir(shared, id)),
            cgroup: Some(setup::cgroup_name(id)),
        }
    }

    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.slot.as_ref().map(|slot| slot.host_address)
    }

    /// Completes when the VM process has ended, with the reason; never while
    /// there is none.
    pub(crate) async fn vm_ended(&self) -> String {
        match &self.machine {
            Some(machine) => machine.exited().await.to_string(),
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn stop_machine(&mut self) {
        if let Some(machine) = self.machine.take()
            && let Err(error) = machine.stop().await
        {
            tracing::error!(pid = machine.pid(), error = %crate::error::chain(&error), "ending a VM failed");
        }
    }

    /// Ends the disk's server and lets go of the disk's files.
    pub(crate) async fn close_disk(&mut self) {
        if let Some(disk) = self.disk.take() {
            disk.server.stop().await;
        }
    }

    /// Gives everything back, the VM first. Goes on after a failure and returns
    /// the first one. What may still be in use stays here, for another attempt.
    pub(crate) async fn release(&mut self, shared: &Shared) -> Result<(), Error> {
        let mut first = Ok(());
        let mut keep = |result: Result<(), Error>| {
            if first.is_ok() {
                first = result;
            }
        };
        self.stop_machine().await;
        self.close_disk().await;
        if let Some(cgroup) = &self.cgroup {
            match hearth_confine::remove_cgroup(cgroup) {
                Ok(()) => self.cgroup = None,
                Err(error) => keep(Err(Error::step("remove the control group")(error))),
            }
        }
        if let Some(slot) = &self.slot {
            shared.egress.leave(slot.host_address);
        }
        if self.cgroup.is_some() {
            // Something of it runs on: nobody else gets its network and its user.
            let slot = self.slot.as_ref().map(|slot| slot.index);
            tracing::error!(slot, "a network slot is not given back");
        } else if let Some(slot) = self.slot.take() {
            keep(
                shared
                    .slots
                    .release(slot)
                    .await
                    .map_err(Error::step("give back the network slot")),
            );
        }
        if let Some(run_dir) = self.run_dir.take() {
            keep(remove_dir(&run_dir).map_err(Error::step("remove the run directory")));
        }
        first
    }

    /// Stops serving and forgets the rest, which goes on without us.
    pub(crate) async fn detach(mut self) {
        if let Some(disk) = self.disk.take() {
            disk.server.stop().await;
            let device = disk.device;
            let flushed = tokio::task::spawn_blocking(move || device.flush()).await;
            if let Ok(Err(error)) = flushed {
                tracing::error!(%error, "flushing a sandbox's disk failed");
            }
        }
    }
}

/// The run directory of a sandbox, for its sockets.
pub(crate) fn run_dir_of(root: &std::path::Path, id: &SandboxId) -> PathBuf {
    root.join("sb").join(id.as_str())
}
