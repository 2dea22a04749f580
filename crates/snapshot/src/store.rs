//! The seam behind which builds are kept, and the values that pass through it.

use crate::Stack;
use crate::{
    Below, Component, CpuRequirement, Digest, EngineVersion, Error, FileRole, Inputs, Kind,
    Manifest, Shape,
};
use async_trait::async_trait;
use hearth_ids::BuildId;
use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

/// Where builds live. An implementation shows a build either whole or not at
/// all, and may be used by several tasks and processes at once.
#[async_trait]
pub trait ArtefactStore: Send + Sync {
    /// The manifests of all readable builds, oldest first. Damaged builds are
    /// left out (and logged); [`Self::open`] names the damage.
    async fn list(&self) -> Result<Vec<Manifest>, Error>;

    /// Makes a build ready for use. Checks the manifest and the files' presence
    /// and length, not their content: that is [`Self::verify`].
    async fn open(&self, id: BuildId) -> Result<Build, Error>;

    /// A private, empty directory in which the files of a future build are put.
    async fn stage(&self, id: BuildId) -> Result<Staging, Error>;

    /// Turns staged files into a build: measures and digests every file, writes
    /// the manifest, makes all of it durable and then visible at once.
    async fn publish(&self, staging: Staging, draft: Draft) -> Result<Build, Error> {
        self.publish_over(staging, draft, Below::default()).await
    }

    /// The same for a build that stands on others, which the draft's parents name.
    async fn publish_over(
        &self,
        staging: Staging,
        draft: Draft,
        below: Below,
    ) -> Result<Build, Error>;

    /// Loads a build with all that it stands on.
    async fn stack(&self, id: BuildId) -> Result<Stack, Error>;

    /// Reads every byte of a build and compares it with the manifest.
    async fn verify(&self, id: BuildId) -> Result<(), Error>;

    /// Removes a build; machines that hold its files open keep them. The caller
    /// makes sure that no other build needs it.
    async fn remove(&self, id: BuildId) -> Result<(), Error>;
}

/// A build that is ready for use.
#[derive(Debug, Clone)]
pub struct Build {
    pub(crate) directory: PathBuf,
    pub manifest: Manifest,
    pub(crate) retired: bool,
}

impl Build {
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file that plays a role; `None` where the build has no such file.
    #[must_use]
    pub fn file_path(&self, role: FileRole) -> Option<PathBuf> {
        let entry = self.manifest.file(role)?;
        Some(self.directory.join(&entry.name))
    }

    /// Whether no new sandbox is started from the build.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// The guest's memory, to be mapped privately. For whole builds only, as are
    /// the next two; the parts of others are found by their [`Stack`].
    #[must_use]
    pub fn memory_path(&self) -> PathBuf {
        self.path(FileRole::Memory)
    }

    #[must_use]
    pub fn device_state_path(&self) -> PathBuf {
        self.path(FileRole::DeviceState)
    }

    /// The root disk, to be used read-only.
    #[must_use]
    pub fn rootfs_path(&self) -> PathBuf {
        self.path(FileRole::Rootfs)
    }

    fn path(&self, role: FileRole) -> PathBuf {
        // Opening a path that does not exist is an error like any other.
        self.file_path(role)
            .unwrap_or_else(|| self.directory.join(".absent"))
    }
}

/// What the maker of a build knows; the store adds sizes and digests.
#[derive(Debug, Clone)]
pub struct Draft {
    pub kind: Kind,
    pub name: Option<String>,
    pub shape: Shape,
    pub engine: EngineVersion,
    pub cpu: CpuRequirement,
    pub inputs: Inputs,
    pub parents: Vec<BuildId>,
    /// The staged files by role: names inside the staging directory.
    pub files: Vec<(FileRole, String)>,
}

impl Component {
    #[must_use]
    pub fn new(version: impl Into<String>, blake3: crate::Digest) -> Self {
        Self {
            version: version.into(),
            blake3,
        }
    }
}

/// A directory that becomes a build, or vanishes when it is dropped.
#[derive(Debug)]
pub struct Staging {
    pub(crate) id: BuildId,
    pub(crate) directory: PathBuf,
    /// Digests of files, by name, that were made while the files were written.
    pub(crate) digests: HashMap<String, Digest>,
    /// Held locked while the staging lives, so that a later start can tell what
    /// a crash left from what is in use.
    pub(crate) lock: File,
    pub(crate) lock_path: PathBuf,
}

impl Staging {
    #[must_use]
    pub fn id(&self) -> BuildId {
        self.id
    }

    /// Where the files go.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Says which [`crate::sparse::digest`] a file has, so that it need not be read
    /// again. The file must not change any more.
    pub fn digested(&mut self, name: &str, digest: Digest) {
        self.digests.insert(name.to_owned(), digest);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a publish the directory is gone from here. What cannot be
        // removed now is swept at the next start.
        let _ = std::fs::remove_dir_all(&self.directory);
        let _ = std::fs::remove_file(&self.lock_path);
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}
