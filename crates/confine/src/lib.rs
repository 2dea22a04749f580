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
//! | files | an unprivileged user and group without supplementary groups; a root directory that holds what is listed, read-only; a Landlock rule set where the kernel has it |
//! | processes, IPC objects, host name, names of control groups | namespaces of its own |
//! | privileges | `no_new_privs`, so that no set-uid program gives any back; an empty bounding set |
//! | keys | a session keyring of its own |
//! | descriptors | every one is closed on exec except 0 to 2 and those passed on purpose |
//! | resources | rlimits; no core files |
//! | system calls | filters that the caller gives ([`Program::filter`]) |
//!
//! Which system calls a VM monitor needs, and from when on fewer of them, only its engine
//! knows: the filters are made there.
//!
//! The order matters. What needs privileges comes first: the namespaces, entered by a
//! thread that then forks (`namespaces.rs`), and in the child (`child.rs`) group, network
//! and limits. Then the identity is dropped, then the doors are locked. A failing step names itself on the program's standard error and fails the
//! spawn; nothing ever runs half confined.

mod cgroup;
mod child;
mod enforceable;
mod landlock;
mod namespaces;
mod program;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use cgroup::Limits;
pub use cgroup::{CgroupVersion, Cgroups, is_member, remove_cgroup};
pub use enforceable::{Enforceable, Limit};
pub use program::{Joining, Program, Spawned};

/// How a process is held. Serialisable, so that it can be kept in a journal. The default
/// is complete except for the user and group, which have none that would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Name of the process's control group below `hearth/`: 1 to 100 characters of
    /// `A-Z a-z 0-9 _ -`, one process per name. Needed for any of the four limits.
    pub cgroup_name: Option<String>,
    /// Limit on memory in bytes, the page cache that the process brings in included.
    pub memory_limit_bytes: Option<u64>,
    /// Limit on CPU time in thousandths of one CPU: 1500 is one and a half CPUs.
    pub cpu_quota_milli: Option<u64>,
    /// Share of the CPUs where there is not enough for all, 1 to 10000; a group that says
    /// nothing has 100.
    pub cpu_weight: Option<u32>,
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
    /// The files and directories (with all below, but not what is mounted there) that
    /// exist for the process, at their own absolute paths and read-only. Those that are
    /// missing stay away. With a list, it also has PID, IPC, UTS and control group
    /// namespaces of its own; `None` leaves it in the daemon's.
    pub visible: Option<Vec<PathBuf>>,
    /// What exists for the process elsewhere than for the host, or can be written. Only
    /// with [`Self::visible`].
    pub placed: Vec<Placed>,
    /// Makes the kernel prefer this process when the host runs out of memory
    /// (-1000 to 1000, see proc(5)).
    pub oom_score_adj: Option<i16>,
}

impl Confinement {
    fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory_limit_bytes,
            cpu_milli: self.cpu_quota_milli,
            cpu_weight: self.cpu_weight,
            pids: self.pids_max,
        }
    }
}

/// A file, device or directory (with all below, but not what is mounted there) at a place
/// of its own in the process's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Where it is for the host. It must exist.
    pub from: PathBuf,
    /// Where it is for the process, as an absolute path.
    pub at: PathBuf,
    /// Whether it may be written, as far as the process's user may; else it is read-only.
    pub writable: bool,
}

/// Resource limits of the process (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// Open descriptors (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// Locked memory in bytes (`RLIMIT_MEMLOCK`).
    pub locked_memory_bytes: u64,
    /// Processes and threads of the user, all of its programs together (`RLIMIT_NPROC`).
    pub threads: u64,
    /// Length in bytes that a file can be given (`RLIMIT_FSIZE`): console, log, device
    /// state. Longer files that are mapped are not concerned.
    pub file_bytes: u64,
}

impl Default for Rlimits {
    fn default() -> Self {
        Self {
            open_files: 1024,
            locked_memory_bytes: 64 << 10,
            threads: 1024,
            file_bytes: 256 << 20,
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
    /// The process's own namespaces could not be made.
    #[error("{step} for namespaces of its own")]
    Namespaces {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file that is to exist for the process could not be put into its root.
    #[error("show {} to the process", path.display())]
    Visible {
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
