//! The jail around a VM process: what it may use, see and reach.
//!
//! A [`Program`] is a command line with the descriptors that it inherits; a
//! [`Confinement`] says how it is held. [`Program::spawn`] starts it in a session of its
//! own, so that it outlives the daemon, with:
//!
//! | fence | by |
//! |---|---|
//! | memory, CPU time, number of threads | a control group of its own ([`Cgroups`]: version 2, else version 1) |
//! | network | the network namespace it is put into |
//! | files | an unprivileged user and group without supplementary groups; a Landlock rule set where the kernel has it |
//! | privileges | `no_new_privs`, so that no set-uid program gives any back |
//! | descriptors | every one is closed on exec except 0 to 2 and those passed on purpose |
//! | resources | rlimits; no core files |
//!
//! The system-call filter is the VM monitor's own (QEMU's `-sandbox`, Firecracker's
//! built-in one): only it knows which calls it still needs after start-up.
//!
//! The order matters and lives in one place, `child.rs`: what needs privileges comes
//! first (group, namespace, limits), then the identity is dropped, then the doors are
//! locked. A failing step names itself on the program's standard error and fails the
//! spawn; nothing ever runs half confined.

mod cgroup;
mod child;
mod landlock;
mod program;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use cgroup::Limits;
pub use cgroup::{CgroupVersion, Cgroups, is_member, remove_cgroup};
pub use program::{Joining, Program, Spawned};

/// How a process is held. Serialisable, so that it can be kept in a journal. The default
/// is complete except for the user and group, which have none that would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Name of the process's control group below `hearth/`: 1 to 100 characters of
    /// `A-Z a-z 0-9 _ -`, one process per name. Needed for any of the three limits.
    pub cgroup_name: Option<String>,
    /// Limit on memory in bytes, the page cache that the process brings in included.
    pub memory_limit_bytes: Option<u64>,
    /// Limit on CPU time in thousandths of one CPU: 1500 is one and a half CPUs.
    pub cpu_quota_milli: Option<u64>,
    /// Limit on the number of processes and threads.
    pub pids_max: Option<u32>,
    /// Path of the network namespace to enter, such as `/run/netns/NAME`.
    pub netns: Option<PathBuf>,
    /// User to run as. 0 is refused: that would be no confinement.
    pub uid: u32,
    /// Group to run as. 0 is refused.
    pub gid: u32,
    /// Resource limits.
    pub rlimits: Rlimits,
    /// What the file system may be used for; `None` leaves it to the user's rights.
    pub files: Option<FileAccess>,
    /// Makes the kernel prefer this process when the host runs out of memory
    /// (-1000 to 1000, see proc(5)).
    pub oom_score_adj: Option<i16>,
}

impl Confinement {
    fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory_limit_bytes,
            cpu_milli: self.cpu_quota_milli,
            pids: self.pids_max,
        }
    }
}

/// Resource limits of the process (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// Open descriptors (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// Locked memory in bytes (`RLIMIT_MEMLOCK`).
    pub locked_memory_bytes: u64,
}

impl Default for Rlimits {
    fn default() -> Self {
        Self {
            open_files: 1024,
            locked_memory_bytes: 8 << 20,
        }
    }
}

/// Parts of the file system that stay reachable, enforced by Landlock on kernels that
/// have it. Descriptors that are already open are not affected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAccess {
    /// Files and directories (with all below) that may be read and executed.
    pub read: Vec<PathBuf>,
    /// Files and directories (with all below) that may also be written, without
    /// creating or removing entries.
    pub write: Vec<PathBuf>,
}

/// Why a process could not be confined or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The confinement's description is not acceptable.
    #[error("refuse confinement: {0}")]
    Invalid(String),
    /// A limit was asked for whose controller this host does not offer.
    #[error("find the control group controller {controller}, needed for a limit")]
    NoController {
        /// `memory`, `cpu` or `pids`.
        controller: &'static str,
    },
    /// A control group could not be made or set up.
    #[error("set up control group file {}", path.display())]
    Cgroup {
        /// The directory or file concerned.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The network namespace could not be opened.
    #[error("open network namespace {}", path.display())]
    Netns {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The Landlock rule set could not be made.
    #[error("restrict file access")]
    Landlock(#[source] std::io::Error),
    /// The child could not be started; a step of the confinement that failed has
    /// written its name to the child's standard error.
    #[error("start {}", program.display())]
    Spawn {
        /// The executable.
        program: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}
