//! Builds at rest: what a stored virtual machine consists of, how its parts are
//! named and checked, and where they live.
//!
//! A *build* is one immutable directory: a manifest and the files it names
//! (memory image, device state, disk). It appears whole or not at all: it is
//! assembled in a [`Staging`] area and published by one rename, after every file
//! has reached the disk. Nothing changes a published build; it can only be
//! retired (no longer started from) and removed.
//!
//! A build is whole, or it stands on others: its memory is then a difference to
//! theirs ([`difference`]), its disk layers over theirs. A [`Stack`] puts one
//! together. What nothing needs any more is collected ([`gc`]).
//!
//! Who uses it: the builder publishes, the node opens, the control plane lists.

#![forbid(unsafe_code)]

mod artefact;
mod blobs;
mod blocks;
pub mod difference;
mod digest;
mod error;
pub mod gc;
mod hold;
mod local;
mod manifest;
pub mod sparse;
mod stack;
mod store;
mod template;

pub use artefact::{ARTEFACT_FILE, ArtefactFile, ArtefactInfo, ContentDigest};
pub use blobs::{BlobError, BlobInfo, BuildBlobs, FileBlobs, MAX_BLOB_BYTES};
pub use blocks::DiskBlocks;
pub use digest::Digest;
pub use error::{Corruption, Error};
pub use hold::{Hold, Holder};
pub use local::{Lease, LocalStore};
pub use manifest::{
    Accelerator, Below, Component, CpuRequirement, DEVICE_STATE_FILE, EngineVersion, FileEntry,
    FileRole, Host, Incompatible, Inputs, Kind, MANIFEST_FILE, MEMORY_DIFFERENCE_FILE, MEMORY_FILE,
    MEMORY_INDEX_FILE, Manifest, Mismatch, ROOTFS_FILE, SECRETS_FILE, Shape,
};
pub use stack::{DiskStack, Stack};
pub use store::{Build, BuildCache, BuildCollection, Draft, Staging};
pub use template::{StartCommand, TEMPLATE_FILE, TemplateDetails};
