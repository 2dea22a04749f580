//! What a VM is made of, as the caller says it.

use std::path::{Path, PathBuf};

use hearth_confine::Confinement;
use serde::{Deserialize, Serialize};

/// Processors and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmShape {
    /// Number of virtual processors, at least 1.
    pub vcpus: u32,
    /// Memory in bytes, a multiple of 1 MiB.
    pub memory_bytes: u64,
}

/// The VM's network interface: a TAP device in a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAttachment {
    /// Namespace that holds the TAP device, such as `/run/netns/NAME`.
    pub netns: PathBuf,
    /// Name of the TAP device.
    pub tap: String,
    /// Hardware address that the guest sees.
    pub mac: [u8; 6],
}

/// The VM's disk. Who serves it may go away and come back; the guest's requests wait
/// meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskAttachment {
    /// An NBD export on a unix socket, which the engine is the client of.
    NbdSocket {
        /// Path of the server's socket. The VM's user must be able to connect to it.
        socket: PathBuf,
        /// Name of the export.
        export: String,
    },
    /// A block device of this host, such as `/dev/nbd0`.
    BlockDevice {
        /// Its path.
        path: PathBuf,
    },
}

/// The ways of [`DiskAttachment`], of which an engine knows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// [`DiskAttachment::NbdSocket`].
    NbdSocket,
    /// [`DiskAttachment::BlockDevice`].
    BlockDevice,
}

/// Where the guest's serial console goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// Nowhere.
    #[default]
    Null,
    /// To `console.log` in the run directory.
    File,
}

/// A VM to boot.
#[derive(Clone, Debug)]
pub struct BootSpec {
    /// Name of the VM in process lists.
    pub id: String,
    /// Directory for the VM's socket and logs; must exist. `console.log` takes the guest's
    /// console.
    pub run_dir: PathBuf,
    /// Processors and memory.
    pub shape: VmShape,
    /// Uncompressed kernel with a PVH entry (`vmlinux`).
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initramfs: PathBuf,
    /// Appended to the engine's own kernel command line.
    pub cmdline_extra: String,
    /// File that is the memory image once the VM has been saved
    /// ([`MemoryTarget::Image`]). An engine that maps it shared creates it now, and removes
    /// it when the boot fails; another one writes it at the save.
    pub memory_file: PathBuf,
    /// The disk.
    pub disk: DiskAttachment,
    /// The network interface, if any.
    pub network: Option<NetworkAttachment>,
    /// How the VM process is held; `None` only for experiments.
    pub confinement: Option<Confinement>,
}

/// A VM to restore.
#[derive(Clone, Debug)]
pub struct RestoreSpec {
    /// Name of the VM in process lists.
    pub id: String,
    /// Directory for the VM's socket and logs; must exist.
    pub run_dir: PathBuf,
    /// Processors and memory, the same as of the saved VM.
    pub shape: VmShape,
    /// Where its memory is.
    pub memory: MemorySource,
    /// Place, on a disk, for a file in which an engine that can hand memory out in no other
    /// way collects what the VM writes. It is made only by such an engine, and removed when
    /// the VM is stopped.
    pub scratch: PathBuf,
    /// Device state that [`crate::Machine::save`] wrote.
    pub device_state: PathBuf,
    /// The disk.
    pub disk: DiskAttachment,
    /// The network interface; present if and only if the saved VM had one.
    pub network: Option<NetworkAttachment>,
    /// How the VM process is held; `None` only for experiments.
    pub confinement: Option<Confinement>,
    /// Whether the VM ends up running, else paused.
    pub resume: bool,
}

/// The memory of a saved VM. Its files are mapped privately and never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemorySource {
    /// One file that holds all of it.
    Image(PathBuf),
    /// An image, and what stands over it.
    Pieces {
        /// The image.
        image: PathBuf,
        /// Pieces of other files, at least one.
        overlay: MemoryOverlay,
    },
}

impl MemorySource {
    /// The memory of `image` with `overlay` over it, which may be empty.
    #[must_use]
    pub fn new(image: PathBuf, overlay: MemoryOverlay) -> Self {
        if overlay.pieces.is_empty() {
            Self::Image(image)
        } else {
            Self::Pieces { image, overlay }
        }
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Path {
        match self {
            Self::Image(image) | Self::Pieces { image, .. } => image,
        }
    }
}

/// Pieces of further files that are mapped privately over a memory image, so that a
/// memory which was kept as a difference needs no copy of what it shares with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryOverlay {
    /// The files that pieces lie in.
    pub files: Vec<PathBuf>,
    /// The pieces, none over another.
    pub pieces: Vec<MemoryPiece>,
}

/// A stretch of a file that stands over a stretch of memory. Offsets and length are in
/// bytes, multiples of 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPiece {
    /// Index of the file in [`MemoryOverlay::files`].
    pub file: usize,
    /// Where the piece starts in the file.
    pub file_offset: u64,
    /// Where it stands in the guest's memory.
    pub memory_offset: u64,
    /// Its length, not 0.
    pub length: u64,
}

/// The most pieces of one VM. Each may split a mapping in three, and the kernel allows
/// a process 65530 mappings by default.
pub const MAX_MEMORY_PIECES: usize = 24_000;
/// The most files of one overlay: each is a descriptor of the VM process.
pub const MAX_MEMORY_FILES: usize = 64;

/// Where a VM is saved to.
#[derive(Clone, Debug)]
pub struct SaveTarget {
    /// File to create for the device state.
    pub device_state: PathBuf,
    /// What becomes of the memory.
    pub memory: MemoryTarget,
}

/// What becomes of a VM's memory when the VM is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryTarget {
    /// Of a VM that was booted: [`BootSpec::memory_file`] is its image when the save is
    /// done, for as long as the VM stays paused.
    Image,
    /// Of a VM that was restored: what it wrote since can be read afterwards, with
    /// [`crate::Machine::dirty_memory`].
    Difference,
}

/// How the guest's memory is mapped to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryMapping {
    /// What the guest writes goes to the file.
    Shared,
    /// The file is only the start; what the guest writes belongs to the process.
    Private,
    /// Not at all: the memory is the process's own until it is saved to the file.
    Own,
}

/// Enough to find a VM again after a restart of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// Engine that runs it.
    pub engine: String,
    /// Name of the VM.
    pub id: String,
    /// Process id.
    pub pid: u32,
    /// When the process was started, in clock ticks since the host booted (field 22 of
    /// `/proc/PID/stat`); tells it from a later process of the same id.
    pub start_time_ticks: u64,
    /// Id of the host's boot, so that a record from before a reboot is never mistaken.
    pub boot_id: String,
    /// Path of the control socket.
    pub control_socket: PathBuf,
    /// The VM's log, whose end is quoted in errors.
    pub log: PathBuf,
    /// Processors and memory.
    pub shape: VmShape,
    /// File behind the guest's memory.
    pub memory_file: PathBuf,
    /// Files of which pieces are mapped over that one.
    #[serde(default)]
    pub memory_overlay_files: Vec<PathBuf>,
    /// How the memory file is mapped.
    pub memory_mapping: MemoryMapping,
    /// File in which what was written is collected at each save, where the engine needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_scratch: Option<PathBuf>,
    /// Version of the engine that it runs under, where whoever adopts it may be unable to
    /// ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
    /// Name of the VM's control group, if it has one.
    pub cgroup_name: Option<String>,
}
