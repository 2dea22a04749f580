//! The manifest: one JSON document per build that says what the build is, what
//! it was made from, what it needs to run and which files it consists of.
//!
//! It is parsed once, by [`Manifest::parse`], which checks everything that later
//! code relies on: file names that cannot leave the directory, each role at most
//! once, the roles that the kind needs, sane sizes. A manifest from a newer
//! format is refused, unknown fields of this one too.

use crate::Digest;
use chrono::{DateTime, Utc};
use hearth_ids::BuildId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub const MANIFEST_FILE: &str = "manifest.json";
pub const MEMORY_FILE: &str = "memory.img";
pub const DEVICE_STATE_FILE: &str = "device.state";
pub const ROOTFS_FILE: &str = "rootfs.ext4";

/// The format that this code reads and writes.
const FORMAT: u32 = 1;
/// A manifest longer than this is refused unread, in bytes.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 1 << 20;
const MAX_FILES: usize = 64;
const MAX_NAME_LENGTH: usize = 64;
const MAX_PARENTS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this document's format.
    pub format: u32,
    pub build_id: BuildId,
    pub kind: Kind,
    /// What the build is called by people, such as `base`. Not unique.
    pub name: Option<String>,
    pub created_at: DateTime<Utc>,
    pub shape: Shape,
    pub engine: EngineVersion,
    pub cpu: CpuRequirement,
    pub inputs: Inputs,
    /// Builds whose files this one needs beside its own, nearest first.
    pub parents: Vec<BuildId>,
    pub files: Vec<FileEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Made by a template build.
    Template,
    /// Taken from a running sandbox, by name or for a pause.
    Snapshot,
}

/// The virtual hardware that the build was saved with and must be restored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

/// The virtual machine monitor whose device state this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineVersion {
    /// Such as `qemu`.
    pub name: String,
    /// As the engine reports itself.
    pub version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

/// What the processor must offer for the saved state to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuRequirement {
    pub accelerator: Accelerator,
    /// The engine's name for the processor model, such as `host` or `max`.
    pub model: String,
    /// Processor features seen by the guest, sorted; empty where the engine
    /// emulates the processor and needs none of the host's.
    pub features: Vec<String>,
}

/// One ingredient with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    pub version: String,
    /// BLAKE3 of the component's file.
    pub blake3: Digest,
}

/// What the build was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    pub kernel: Component,
    pub initramfs: Component,
    pub agent: Component,
    /// The root file system that the machine was booted from.
    pub rootfs: Component,
    /// A digest over all that decides the build's content: equal inputs need no
    /// second build.
    pub key: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub role: FileRole,
    /// A plain name inside the build's directory.
    pub name: String,
    /// The file's length, holes included.
    pub size_bytes: u64,
    /// [`crate::sparse::digest`] of the content.
    pub digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// The guest's whole memory, page for page.
    Memory,
    /// The engine's device state.
    DeviceState,
    /// The whole root disk.
    Rootfs,
}

impl Manifest {
    /// The format that [`Self::parse`] accepts.
    #[must_use]
    pub const fn current_format() -> u32 {
        FORMAT
    }

    /// Parses and checks a manifest. The error is a sentence about the first
    /// fault.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head =
            serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if head.format != FORMAT {
            return Err(format!(
                "format {} is not supported, only {FORMAT} is",
                head.format
            ));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The file that plays `role`, if the build has one.
    #[must_use]
    pub fn file(&self, role: FileRole) -> Option<&FileEntry> {
        self.files.iter().find(|entry| entry.role == role)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.files.len() > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files"));
        }
        if self.parents.len() > MAX_PARENTS {
            return Err(format!("more than {MAX_PARENTS} parents"));
        }
        if self.parents.contains(&self.build_id) {
            return Err("the build is its own parent".to_owned());
        }
        let mut names = BTreeSet::new();
        let mut roles = BTreeSet::new();
        for entry in &self.files {
            if !valid_file_name(&entry.name) {
                return Err(format!("invalid file name {:?}", entry.name));
            }
            if !names.insert(entry.name.as_str()) || !roles.insert(entry.role) {
                return Err(format!("file {:?} is named twice", entry.name));
            }
        }
        for role in [FileRole::Memory, FileRole::DeviceState, FileRole::Rootfs] {
            if !roles.contains(&role) {
                return Err(format!("no file for the role {role:?}"));
            }
        }
        self.check_sizes()
    }

    fn check_sizes(&self) -> Result<(), String> {
        let mib = |value: u64| value.checked_mul(1 << 20);
        if self.shape.vcpus == 0 || self.shape.memory_mib == 0 || self.shape.disk_mib == 0 {
            return Err("the shape has a zero".to_owned());
        }
        let expected = [
            (FileRole::Memory, mib(self.shape.memory_mib)),
            (FileRole::Rootfs, mib(self.shape.disk_mib)),
        ];
        for (role, size) in expected {
            let found = self.file(role).map(|entry| entry.size_bytes);
            if size.is_none() || found != size {
                return Err(format!(
                    "the size of the {role:?} file contradicts the shape"
                ));
            }
        }
        Ok(())
    }
}

/// Plain names only: they become paths.
pub(crate) fn valid_file_name(name: &str) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name != MANIFEST_FILE
        && !name.starts_with('.')
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        })
}

#[cfg(test)]
mod tests;
