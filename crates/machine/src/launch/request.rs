//! What is asked of an engine, boot or restore alike.

use std::path::{Path, PathBuf};

use hearth_confine::Confinement;

use super::files::SOCKET_PATH_LIMIT;
use crate::{
    BootSpec, DiskAttachment, Error, MachineRecord, MemoryMapping, NetworkAttachment, RestoreSpec,
    VmShape, process,
};

/// What a boot and a restore have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) id: &'a str,
    pub(crate) run_dir: &'a Path,
    pub(crate) shape: VmShape,
    pub(crate) memory_file: &'a Path,
    pub(crate) disk: &'a DiskAttachment,
    pub(crate) network: Option<&'a NetworkAttachment>,
    pub(crate) confinement: Option<&'a Confinement>,
}

impl<'a> Request<'a> {
    pub(crate) fn boot(spec: &'a BootSpec) -> Self {
        Self {
            id: &spec.id,
            run_dir: &spec.run_dir,
            shape: spec.shape,
            memory_file: &spec.memory_file,
            disk: &spec.disk,
            network: spec.network.as_ref(),
            confinement: spec.confinement.as_ref(),
        }
    }

    pub(crate) fn restore(spec: &'a RestoreSpec) -> Self {
        Self {
            id: &spec.id,
            run_dir: &spec.run_dir,
            shape: spec.shape,
            memory_file: spec.memory.image(),
            disk: &spec.disk,
            network: spec.network.as_ref(),
            confinement: spec.confinement.as_ref(),
        }
    }

    /// Refuses what no engine can carry out.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |reason: &str| Err(Error::InvalidSpec(reason.to_owned()));
        let VmShape {
            vcpus,
            memory_bytes,
        } = self.shape;
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !(1..=64).contains(&self.id.len()) || !self.id.bytes().all(good) {
            return refuse("the id is not 1 to 64 letters, digits, '-', '_' and '.'");
        }
        if vcpus == 0 || vcpus > 64 {
            return refuse("the number of processors is not 1 to 64");
        }
        if memory_bytes == 0 || memory_bytes % (1 << 20) != 0 {
            return refuse("the memory is not a multiple of 1 MiB");
        }
        if let DiskAttachment::NbdSocket { socket, .. } = self.disk {
            if socket.as_os_str().len() > SOCKET_PATH_LIMIT {
                return refuse("the disk socket's path is too long");
            }
            if socket.to_str().is_none() {
                return refuse("the disk socket's path is not UTF-8");
            }
        }
        Ok(())
    }

    /// The record of the VM to be; its process is not known yet.
    pub(crate) fn record(
        &self,
        engine: &str,
        mapping: MemoryMapping,
        control_socket: PathBuf,
        log: PathBuf,
    ) -> MachineRecord {
        MachineRecord {
            engine: engine.to_owned(),
            id: self.id.to_owned(),
            pid: 0,
            start_time_ticks: 0,
            boot_id: process::boot_id(),
            control_socket,
            log,
            shape: self.shape,
            memory_file: self.memory_file.to_owned(),
            memory_overlay_files: Vec::new(),
            memory_mapping: mapping,
            memory_scratch: None,
            engine_version: None,
            cgroup_name: self.confinement.and_then(|it| it.cgroup_name.clone()),
        }
    }
}
