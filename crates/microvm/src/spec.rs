//! What an engine is told: the one place where a VM's attachments and its confinement
//! are put together.

use crate::{limits, names, parts::Parts};
use hearth_confine::Confinement;
use hearth_machine::{
    BootSpec, DiskAttachment, MemorySource, NetworkAttachment, RestoreSpec, VmShape,
};
use hearth_network::Slot;
use std::path::PathBuf;

/// A kernel to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Name of the VM in process lists.
    pub name: String,
    /// Processors and memory.
    pub shape: VmShape,
    /// Uncompressed kernel.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initramfs: PathBuf,
    /// The guest's memory; is made.
    pub memory_file: PathBuf,
}

/// A saved VM to restore. It runs when it is there.
#[derive(Debug, Clone)]
pub struct SavedVm {
    /// Name of the VM in process lists.
    pub name: String,
    /// The same as of the VM that was saved.
    pub shape: VmShape,
    /// Its memory; it is not changed.
    pub memory: MemorySource,
    /// Place for a file that the engine may need, see [`RestoreSpec::scratch`].
    pub scratch: PathBuf,
    /// What the engine wrote when it was saved.
    pub device_state: PathBuf,
}

impl Parts {
    pub(crate) fn boot_spec(&self, guest: &Kernel) -> BootSpec {
        let limit = guest.shape.memory_bytes + limits::BOOT_OVERHEAD_BYTES;
        BootSpec {
            id: guest.name.clone(),
            run_dir: self.run_dir.clone(),
            shape: guest.shape,
            kernel: guest.kernel.clone(),
            initramfs: guest.initramfs.clone(),
            cmdline_extra: String::new(),
            memory_file: guest.memory_file.clone(),
            disk: self.disk_attachment(),
            network: Some(network(self.slot())),
            confinement: Some(self.confinement(limit)),
        }
    }

    pub(crate) fn restore_spec(&self, saved: &SavedVm) -> RestoreSpec {
        let limit = saved.shape.memory_bytes + limits::RESTORE_OVERHEAD_BYTES;
        RestoreSpec {
            id: saved.name.clone(),
            run_dir: self.run_dir.clone(),
            shape: saved.shape,
            memory: saved.memory.clone(),
            scratch: saved.scratch.clone(),
            device_state: saved.device_state.clone(),
            disk: self.disk_attachment(),
            network: Some(network(self.slot())),
            confinement: Some(self.confinement(limit)),
            resume: true,
        }
    }

    fn disk_attachment(&self) -> DiskAttachment {
        if let Some(path) = &self.device_path {
            return DiskAttachment::BlockDevice { path: path.clone() };
        }
        DiskAttachment::NbdSocket {
            socket: self.run_dir.join(names::DISK_SOCKET),
            export: names::EXPORT.to_owned(),
        }
    }

    fn confinement(&self, memory_limit_bytes: u64) -> Confinement {
        let slot = self.slot();
        Confinement {
            netns: Some(slot.netns_path.clone()),
            uid: slot.uid,
            gid: slot.uid,
            cgroup_name: Some(self.cgroup.clone()),
            memory_limit_bytes: Some(memory_limit_bytes),
            ..Confinement::default()
        }
    }
}

fn network(slot: &Slot) -> NetworkAttachment {
    NetworkAttachment {
        netns: slot.netns_path.clone(),
        tap: slot.tap.clone(),
        mac: slot.mac,
    }
}
