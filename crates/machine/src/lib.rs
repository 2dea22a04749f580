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
//! writes, and its memory. That of a booted VM is in its memory file after the save. A
//! restored VM maps its memory file privately: the file stays as it is, shared through the
//! page cache by every VM that was restored from it, and what this VM wrote since is
//! handed out by [`Machine::dirty_memory`] after the save; how it is tracked is the
//! engine's affair. Kept that way, it is restored as [`MemorySource::Pieces`]: pieces of
//! its file, mapped privately over the former image.
//!
//! A VM process is in a session of its own and holds no pipe to the daemon: it survives
//! the daemon, whose successor finds it by its [`MachineRecord`]. Dropping a `Machine`
//! therefore does not stop the VM.

pub mod accelerator;
mod dirty;
mod error;
pub mod firecracker;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod launch;
mod process;
pub mod processes;
pub mod qemu;
mod qmp;
mod spec;
mod tap;

use std::collections::BTreeSet;

use async_trait::async_trait;

pub use dirty::{DirtyMemory, PageRun};
pub use error::Error;
pub use process::ExitReason;
pub use spec::{
    BootSpec, Console, DiskAttachment, DiskKind, MAX_MEMORY_FILES, MAX_MEMORY_PIECES,
    MachineRecord, MemoryMapping, MemoryOverlay, MemoryPiece, MemorySource, MemoryTarget,
    NetworkAttachment, RestoreSpec, SaveTarget, VmShape,
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
    /// The processor that guests see.
    pub cpu: GuestCpu,
    /// How a disk is attached.
    pub disk: DiskKind,
    /// Whether a memory can be restored from pieces over an image
    /// ([`MemorySource::Pieces`]), else only from one file.
    pub memory_pieces: bool,
}

/// The processor that guests see. A saved VM goes on only on one that can do as much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestCpu {
    /// The engine's name for it, with what is taken from it, such as `host`.
    pub model: String,
    /// Features of the host's that a guest may have found and rely on, as its kernel names
    /// them; none where the processor is emulated, and so the same everywhere.
    pub features: BTreeSet<String>,
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

    /// Version of the engine that the VM runs under, which its device state is of. A VM that
    /// outlived an upgrade is still under the one before, not that of [`Capabilities`].
    fn engine_version(&self) -> String;

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

    /// Writes the device state of the paused VM to a new file, and sees to its memory as
    /// the target says.
    ///
    /// # Errors
    /// [`Error::NotPaused`], [`Error::Unsupported`] when the memory's target is not the one
    /// of how the VM was started, [`Error::Io`] when the file exists or cannot be written, or
    /// as [`Machine::pause`]. A file that was begun is removed.
    async fn save(&self, target: SaveTarget) -> Result<(), Error>;

    /// Hands out the memory that the paused VM wrote since it was restored. It must have
    /// been saved since it was paused, as [`MemoryTarget::Difference`].
    ///
    /// # Errors
    /// [`Error::NotPaused`], [`Error::Unsupported`] for a VM whose memory file is mapped
    /// shared (the file is the memory), or as [`Machine::pause`].
    async fn dirty_memory(&self) -> Result<Box<dyn DirtyMemory>, Error>;

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
