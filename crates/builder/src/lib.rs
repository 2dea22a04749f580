//! Makes what a sandbox starts from: the guest kernel, the initramfs, the `base`
//! root file system, and out of them the `base` template's snapshot.
//!
//! ```text
//! kernel package ─▶ vmlinux, modules ─┐
//! agent binary ───▶ initramfs ────────┼─▶ boot once ─▶ agent ready ─▶ save ─▶ build
//! host's archive ─▶ rootfs.ext4 ──────┘
//! ```
//!
//! Every stage is keyed by a digest of its inputs (package versions, the agent's
//! bytes, the recipe) and done again only when one changes. A stage that fails or
//! is dropped half-way leaves nothing behind: results are assembled aside and
//! renamed into place.

#![forbid(unsafe_code)]

mod apt;
mod artefact;
pub mod cpio;
mod error;
mod initramfs;
mod interpreter;
pub mod kernel;
mod progress;
mod rootfs;
mod template;
mod tool;
mod variant;
mod warmup;

pub use error::Error;
pub use initramfs::Initramfs;
pub use interpreter::{Edition, INTERPRETER_TEMPLATE, InterpreterConfig};
pub use kernel::Kernel;
pub use progress::{Event, Outcome, Progress, Silent, Stage, Unit};
pub use rootfs::{PACKAGES as BASE_PACKAGES, Rootfs, RootfsConfig, make_image};
pub use template::{TemplateSpec, Workshop, copy, copy_out, find, snapshot};

use artefact::Shelf;
use progress::StageProgress;
use std::path::PathBuf;
use variant::Variant;

/// Where artefacts are kept and what they are made from.
#[derive(Debug, Clone)]
pub struct ArtefactConfig {
    /// The directory of artefacts in use, such as `/var/lib/hearth/artefacts`.
    pub directory: PathBuf,
    /// A directory of copies that outlives `directory`, for machines that start
    /// from nothing often.
    pub cache: Option<PathBuf>,
    /// The static guest agent.
    pub agent: PathBuf,
    pub rootfs: RootfsConfig,
}

/// Everything that a machine of the `base` template boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artefacts {
    pub kernel: Kernel,
    pub initramfs: Initramfs,
    pub rootfs: Rootfs,
}

/// Finds or makes the artefacts of `base`. Waits for another builder that works on the same
/// directory. Dropping the future stops the work; nothing half-made stays.
pub async fn artefacts(
    config: &ArtefactConfig,
    progress: &dyn Progress,
) -> Result<Artefacts, Error> {
    make(config, &Variant::base(), progress).await
}

/// Like [`artefacts`], with the root file system of the code interpreter.
///
/// # Errors
/// Any; among them what pip and npm say.
pub async fn interpreter_artefacts(
    config: &ArtefactConfig,
    interpreter: &InterpreterConfig,
    progress: &dyn Progress,
) -> Result<Artefacts, Error> {
    make(config, &Variant::interpreter(interpreter)?, progress).await
}

async fn make(
    config: &ArtefactConfig,
    variant: &Variant,
    progress: &dyn Progress,
) -> Result<Artefacts, Error> {
    let shelf = Shelf::open(&config.directory, config.cache.as_deref()).await?;
    let archive = apt::Archive::new(&shelf.scratch()?);
    let kernel = kernel::prepare(
        &shelf,
        &archive,
        StageProgress::new(progress, Stage::Kernel),
    )
    .await?;
    let initramfs = initramfs::build(
        &shelf,
        &kernel,
        &config.agent,
        StageProgress::new(progress, Stage::Initramfs),
    )
    .await?;
    let rootfs = rootfs::build(
        &shelf,
        &archive,
        &kernel,
        &config.rootfs,
        variant,
        StageProgress::new(progress, Stage::Rootfs),
    )
    .await?;
    Ok(Artefacts {
        kernel,
        initramfs,
        rootfs,
    })
}
