//! MicroVMs: one interface, and the engines behind it.
//!
//! An [`Engine`] starts VMs, by booting a kernel or by restoring a saved state, and takes
//! over VMs that outlived an earlier daemon. A [`Machine`] is one VM process. The
//! interface holds what every engine can honestly do; what differs is in
//! [`Capabilities`].
//!
//! ```text
//!   boot ───────────────▶ running ◀──resume── paused ──save──▶ (device state, memory)
//!   restore(resume) ────▶    │    ───pause──▶   │
//!   restore(!resume) ────────┼──────────────────┘
//!   adopt ──▶ as found       └── stop, or the process ends ──▶ exited
//! ```
//!
//! A saved VM is two things: its device state, a small file that [`Machine::save`]
//! writes, and its memory. The memory of a booted VM is its memory file itself, mapped
//! shared. A restored VM maps its memory file privately: the file stays as it is, shared
//! through the page cache by every VM that was restored from it, and what this VM wrote
//! since is read with [`Machine::dirty_memory`]. Kept that way, it is restored as a
//! [`MemoryOverlay`]: pieces of its file, mapped privately over the former image.
//!
//! A VM process is in a session of its own and holds no pipe to the daemon: it survives
//! the daemon, whose successor finds it by its [`MachineRecord`]. Dropping a `Machine`
//! therefore does not stop the VM.

pub mod accelerator;
mod dirty;
mod error;
mod process;
pub mod processes;
pub mod qemu;
mod qmp;
mod spec;
mod tap;

use async_trait::async_trait;

pub use dirty::{DirtyMemory, PageRun};
pub use error::Error;
pub use process::ExitReason;
pub use spec::{
    BootSpec, Console, DiskAttachment, MAX_MEMORY_FILES, MAX_MEMORY_PIECES, MachineRecord,
    MemoryMapping, MemoryOverlay, MemoryPiece, NetworkAttachment, RestoreSpec, SaveTarget, VmShape,
};

/// What an engine can do on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the engine, such as `qemu`. A saved VM can be restored only by the engine
    /// that saved it.
    pub engine: &'static str,
    /// Version of the engine's program. A device state is only sure to load in the
    /// version that wrote it.
    pub version: String,
    /// Accelerator that VMs run on. A saved VM stays with it.
    pub accelerator: accelerator::Accelerator,
    /// Whether a disk is attached by NBD socket (else as a block device or file).
    pub nbd_disk: bool,
}

/// Starts VMs, and finds those that run.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What this engine can do on this host.
    fn capabilities(&self) -> Capabilities;

    /// Boots a kernel. The VM runs when this returns; its guest has only begun to start.
    ///
    /// # Errors
    /// Any [`Error`]; nothing that was made for the VM is left then, except what it wrote
    /// into the run directory's logs.
    async fn boot(&self, spec: BootSpec) -> Result<Box<dyn Machine>, Error>;

    /// Restores a saved VM, which then runs or stays paused as the spec says.
    ///
    /// # Errors
    /// As [`Engine::boot`].
    async fn restore(&self, spec: RestoreSpec) -> Result<Box<dyn Machine>, Error>;

    /// Takes over a VM that an earlier daemon started.
    ///
    /// # Errors
    /// [`Error::Gone`] when it no longer runs.
    async fn adopt(&self, record: MachineRecord) -> Result<Box<dyn Machine>, Error>;
}

/// One VM.
#[async_trait]
pub trait Machine: Send + Sync {
    /// Process id of the VM process.
    fn pid(&self) -> u32;

    /// What a later daemon needs to adopt this VM.
    fn record(&self) -> MachineRecord;

    /// Stops the guest's processors and drains its devices; fine when already paused.
    ///
    /// # Errors
    /// [`Error::Ended`] when the VM process is no more, or the engine's refusal.
    async fn pause(&self) -> Result<(), Error>;

    /// Lets the guest run; fine when it already does.
    ///
    /// # Errors
    /// As [`Machine::pause`].
    async fn resume(&self) -> Result<(), Error>;

    /// Writes the device state of the paused VM to a new file.
    ///
    /// # Errors
    /// [`Error::NotPaused`], [`Error::Io`] when the file exists or cannot be written, or
    /// as [`Machine::pause`]. A file that was begun is removed.
    async fn save(&self, target: SaveTarget) -> Result<(), Error>;

    /// Finds the memory that the paused VM wrote since it was restored.
    ///
    /// # Errors
    /// [`Error::NotPaused`], [`Error::Unsupported`] for a VM whose memory file is mapped
    /// shared (the file is the memory), or as [`Machine::pause`].
    async fn dirty_memory(&self) -> Result<DirtyMemory, Error>;

    /// How much memory, in bytes, the VM has written since it was restored, about: it
    /// may run meanwhile.
    ///
    /// # Errors
    /// As [`Machine::dirty_memory`], but for `NotPaused`.
    async fn written_bytes(&self) -> Result<u64, Error>;

    /// Kills the VM process, waits until it has ended and removes what it used: socket
    /// and control group. Fine when it has already ended.
    ///
    /// # Errors
    /// When the process does not end, or something cannot be removed.
    async fn stop(&self) -> Result<(), Error>;

    /// Completes when the VM process has ended. May be awaited by many and cancelled.
    async fn exited(&self) -> ExitReason;
}
