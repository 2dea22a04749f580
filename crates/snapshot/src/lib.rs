//! Builds at rest: what a stored virtual machine consists of, how its parts are
//! named and checked, and where they live.
//!
//! A *build* is one immutable directory: a manifest and the files it names
//! (memory image, device state, disk). It appears whole or not at all: it is
//! assembled in a [`Staging`] area and published by one rename, after every file
//! has reached the disk. Nothing changes a published build; it can only be
//! removed.
//!
//! Who uses it: the builder publishes, the node opens, the control plane lists.

#![forbid(unsafe_code)]

mod digest;
mod error;
mod local;
mod manifest;
pub mod sparse;
mod store;

pub use digest::Digest;
pub use error::{Corruption, Error};
pub use local::LocalStore;
pub use manifest::{
    Accelerator, Component, CpuRequirement, DEVICE_STATE_FILE, EngineVersion, FileEntry, FileRole,
    Inputs, Kind, MANIFEST_FILE, MEMORY_FILE, Manifest, ROOTFS_FILE, Shape,
};
pub use store::{ArtefactStore, Build, Draft, Staging};
