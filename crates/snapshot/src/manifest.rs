//! The manifest: one JSON document per build that says what the build is, what
//! it was made from, what it needs to run and which files it consists of.
//!
//! It is parsed once, by [`Manifest::parse`], which checks everything that later
//! code relies on: file names that cannot leave the directory, each role at most
//! once, the roles that the kind needs, sane sizes. A manifest from a newer
//! format is refused, and its build left alone; fields that this version does not
//! know are passed over, and kept where a build is copied ([`rewritten`]).

mod compatibility;

pub use compatibility::{Host, Incompatible, Mismatch};

use crate::{Digest, gc::References};
use chrono::{DateTime, Utc};
use hearth_ids::BuildId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub const MANIFEST_FILE: &str = "manifest.json";
pub const MEMORY_FILE: &str = "memory.img";
pub const DEVICE_STATE_FILE: &str = "device.state";
pub const ROOTFS_FILE: &str = "rootfs.ext4";
pub const MEMORY_DIFFERENCE_FILE: &str = "memory.diff";
pub const MEMORY_INDEX_FILE: &str = "memory.map";
pub const SECRETS_FILE: &str = "secrets.json";

/// The format of a build that is whole by itself.
const FORMAT: u32 = 1;
/// The format of a build that needs others below it, or lacks a memory.
const FORMAT_LAYERED: u32 = 2;
/// A manifest longer than this is refused unread, in bytes.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 1 << 20;
pub(crate) const MAX_FILES: usize = 64;
const MAX_NAME_LENGTH: usize = 64;
const MAX_PARENTS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Builds below this one's memory difference, nearest first; the last one has
    /// the whole image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory_below: Vec<BuildId>,
    /// Builds below this one's disk layers, nearest first; the last one has the
    /// whole disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk_below: Vec<BuildId>,
    pub files: Vec<FileEntry>,
}

/// What a layered build stands on, see [`Manifest::memory_below`]. Both lists are
/// complete, so that one manifest says where each page and block is found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    pub memory: Vec<BuildId>,
    pub disk: Vec<BuildId>,
}

impl Below {
    /// Every build that is named, nearest first, each once.
    #[must_use]
    pub fn parents(&self) -> Vec<BuildId> {
        let mut parents: Vec<BuildId> = Vec::new();
        for id in self.disk.iter().chain(&self.memory) {
            if !parents.contains(id) {
                parents.push(*id);
            }
        }
        parents
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Made by a template build.
    Template,
    /// Kept of a running sandbox for others to start from.
    Snapshot,
    /// What a paused sandbox goes on from; lives as long as something needs it.
    Pause,
}

impl Kind {
    /// The kind's name in manifests and lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Snapshot => "snapshot",
            Self::Pause => "pause",
        }
    }
}

/// The virtual hardware that the build was saved with and must be restored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

/// The virtual machine monitor whose device state this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct CpuRequirement {
    pub accelerator: Accelerator,
    /// The engine's name for the processor model, such as `host` or `max`, with what is
    /// taken from it.
    pub model: String,
    /// Processor features seen by the guest, sorted; empty where the engine
    /// emulates the processor and needs none of the host's.
    pub features: Vec<String>,
}

/// One ingredient with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub version: String,
    /// BLAKE3 of the component's file.
    pub blake3: Digest,
}

/// What the build was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The pages that differ from the memory below, one after the other.
    MemoryDifference,
    /// Which pages these are ([`crate::difference`]).
    MemoryIndex,
    /// The blocks of a disk layer; `disk-N/data`, the lowest N being the lowest layer.
    DiskData,
    /// Which blocks these are; `disk-N/index`.
    DiskIndex,
    /// What only the node may know, such as the token that the saved agent expects.
    Secrets,
}

impl Manifest {
    /// The format that a build of these parts is written in.
    pub(crate) fn format_for(below: &Below, files: &[FileEntry]) -> u32 {
        let whole = [FileRole::Memory, FileRole::DeviceState, FileRole::Rootfs];
        let plain = files.iter().all(|entry| whole.contains(&entry.role));
        if *below == Below::default() && plain && files.len() == whole.len() {
            FORMAT
        } else {
            FORMAT_LAYERED
        }
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
        if !(FORMAT..=FORMAT_LAYERED).contains(&head.format) {
            return Err(format!(
                "format {} is not supported, only {FORMAT} to {FORMAT_LAYERED} are",
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
            let layer = matches!(entry.role, FileRole::DiskData | FileRole::DiskIndex);
            if !valid_name_for(entry.role, &entry.name) {
                return Err(format!("invalid file name {:?}", entry.name));
            }
            if !names.insert(entry.name.as_str()) || !(roles.insert(entry.role) || layer) {
                return Err(format!("file {:?} is named twice", entry.name));
            }
        }
        self.check_memory(&roles)?;
        self.check_disk(&roles)?;
        for (what, ids) in [("memory", &self.memory_below), ("disk", &self.disk_below)] {
            if let Some(id) = ids.iter().find(|id| !self.parents.contains(id)) {
                return Err(format!("the {what} needs {id}, which is no parent"));
            }
        }
        let below = Below {
            memory: self.memory_below.clone(),
            disk: self.disk_below.clone(),
        };
        if self.format < Self::format_for(&below, &self.files) {
            return Err(format!("format {} has no layers", self.format));
        }
        self.check_sizes()
    }

    /// A whole memory, a difference to one below, or none at all.
    fn check_memory(&self, roles: &BTreeSet<FileRole>) -> Result<(), String> {
        let has = |role| roles.contains(&role);
        let (whole, difference) = (has(FileRole::Memory), has(FileRole::MemoryDifference));
        if has(FileRole::MemoryIndex) != difference {
            return Err("a memory difference lacks its index, or an index its pages".to_owned());
        }
        if difference == self.memory_below.is_empty() || (whole && difference) {
            return Err("a memory is either whole or stands on another".to_owned());
        }
        if (whole || difference) != has(FileRole::DeviceState) {
            return Err("no file for the role Memory or DeviceState".to_owned());
        }
        Ok(())
    }

    fn check_disk(&self, roles: &BTreeSet<FileRole>) -> Result<(), String> {
        let layered = !self.disk_below.is_empty();
        if roles.contains(&FileRole::Rootfs) == layered {
            return Err("no file for the role Rootfs, or layers below a whole disk".to_owned());
        }
        let directories = |role| -> BTreeSet<u32> {
            let files = self.files.iter().filter(|entry| entry.role == role);
            files
                .filter_map(|entry| layer_number(&entry.name))
                .collect()
        };
        if directories(FileRole::DiskData) != directories(FileRole::DiskIndex) {
            return Err("a disk layer lacks its index or its data".to_owned());
        }
        Ok(())
    }

    /// Directories of the disk layers inside the build, the lowest first.
    #[must_use]
    pub fn disk_layers(&self) -> Vec<String> {
        let indexes = self
            .files
            .iter()
            .filter(|entry| entry.role == FileRole::DiskIndex);
        let mut numbers: Vec<u32> = indexes
            .filter_map(|entry| layer_number(&entry.name))
            .collect();
        numbers.sort_unstable();
        numbers.into_iter().map(layer_directory).collect()
    }

    /// Whether the build has a memory to be restored; else its disk is booted.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.file(FileRole::DeviceState).is_some()
    }

    fn check_sizes(&self) -> Result<(), String> {
        let mib = |value: u64| value.checked_mul(1 << 20);
        if self.shape.vcpus == 0 || self.shape.memory_mib == 0 || self.shape.disk_mib == 0 {
            return Err("the shape has a zero".to_owned());
        }
        let (memory, disk) = (mib(self.shape.memory_mib), mib(self.shape.disk_mib));
        if memory.is_none() || disk.is_none() {
            return Err("the size of the Memory or Rootfs file contradicts the shape".to_owned());
        }
        for entry in &self.files {
            let (role, size) = (entry.role, entry.size_bytes);
            let good = match role {
                FileRole::Memory => Some(size) == memory,
                FileRole::Rootfs | FileRole::DiskData => Some(size) == disk,
                _ => true,
            };
            if !good {
                return Err(format!(
                    "the size of the {role:?} file contradicts the shape"
                ));
            }
        }
        Ok(())
    }
}

/// The text of a manifest for a copy of the build: `original`, the manifest as it was
/// read, with everything that it says, and `created_at` anew.
///
/// # Errors
/// When the original is no manifest.
pub(crate) fn rewritten(original: &[u8], created_at: DateTime<Utc>) -> serde_json::Result<Vec<u8>> {
    let mut document: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(original)?;
    let created_at = serde_json::to_value(created_at)?;
    document.insert("created_at".to_owned(), created_at);
    serde_json::to_vec_pretty(&document)
}

/// The builds that a manifest refers to which this version cannot read, or whose build it
/// cannot. One of a newer format tells them wherever it says them: everything in it that
/// looks like a build's id. One of our own format that is not what we write is damaged, and
/// an id in it may be: it tells nothing.
pub(crate) fn references(text: &[u8]) -> References {
    fn ids_in(document: &serde_json::Value, found: &mut Vec<BuildId>) {
        use serde_json::Value;
        match document {
            Value::String(text) => found.extend(text.parse::<BuildId>().ok()),
            Value::Array(items) => items.iter().for_each(|item| ids_in(item, found)),
            Value::Object(fields) => fields.values().for_each(|field| ids_in(field, found)),
            _ => {}
        }
    }
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(text) else {
        return References::Unknown;
    };
    let format = document.get("format").and_then(serde_json::Value::as_u64);
    let newer = format.is_some_and(|format| format > u64::from(FORMAT_LAYERED));
    if !newer && Manifest::deserialize(&document).is_err() {
        return References::Unknown;
    }
    let mut found = Vec::new();
    ids_in(&document, &mut found);
    References::Named(found)
}

/// The directory of a build's disk layer.
pub(crate) fn layer_directory(number: u32) -> String {
    format!("disk-{number}")
}

fn layer_number(name: &str) -> Option<u32> {
    let (directory, _) = name.split_once('/')?;
    let number = directory.strip_prefix("disk-")?.parse().ok()?;
    (layer_directory(number) == directory).then_some(number)
}

/// Layers are directories of two files with fixed names; all else is plain.
pub(crate) fn valid_name_for(role: FileRole, name: &str) -> bool {
    let layer_file = match role {
        FileRole::DiskData => "data",
        FileRole::DiskIndex => "index",
        _ => return valid_file_name(name),
    };
    layer_number(name).is_some_and(|number| name == format!("disk-{number}/{layer_file}"))
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
