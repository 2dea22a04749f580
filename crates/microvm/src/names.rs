//! Names on the host. Each is derived from a slot or from a sandbox's id, so that
//! leftovers can be recognised.

use hearth_ids::SandboxId;
use hearth_network::Slot;

/// The NBD export of every VM's disk.
pub const EXPORT: &str = "root";
/// The disk's socket in the run directory.
pub const DISK_SOCKET: &str = "nbd.sock";
/// The console's file in the run directory.
pub const CONSOLE: &str = "console.log";

/// Whose a VM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A sandbox's, whose control group has its id: it keeps its name through every
    /// slot that the sandbox has.
    Sandbox(SandboxId),
    /// A template build's, whose control group is its slot's.
    Build,
}

impl Owner {
    /// The name of the VM's control group.
    #[must_use]
    pub fn cgroup(&self, slot: &Slot) -> String {
        match self {
            Self::Sandbox(id) => sandbox_cgroup(id),
            Self::Build => format!("hearth-build-{}", slot.index),
        }
    }
}

/// The name of a sandbox's control group.
#[must_use]
pub fn sandbox_cgroup(id: &SandboxId) -> String {
    format!("hearth-{id}")
}
