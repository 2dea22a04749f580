//! The seam behind which builds are kept, and the values that pass through it.

use crate::{
    Below, Component, CpuRequirement, Digest, EngineVersion, Error, FileRole, Inputs, Kind, Lease,
    Manifest, Shape, Stack,
};
use async_trait::async_trait;
use hearth_ids::BuildId;
use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

/// The builds on one machine: what VMs map, what is being read, and what is being made.
/// An implementation shows a build either whole or not at all, and may be used by several
/// tasks and processes at once.
#[async_trait]
pub trait BuildCache: Send + Sync {
    /// The manifests of all readable builds that can be started from, oldest first.
    /// Damaged builds are left out (and logged); [`Self::open`] names the damage.
    ///
    /// # Errors
    /// When the cache cannot be listed.
    async fn list(&self) -> Result<Vec<Manifest>, Error>;

    /// Keeps a build, which need not exist yet, and all that it is based on from
    /// collection. To be taken before the build is looked at.
    #[must_use]
    fn lease(&self, id: BuildId) -> Lease;

    /// Makes a build ready for use. Checks the manifest and the files' presence
    /// and length, not their content.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for a retired one; [`Error::Corrupt`], [`Error::Io`].
    async fn open(&self, id: BuildId) -> Result<Build, Error>;

    /// Loads a build with all that it is based on.
    ///
    /// # Errors
    /// As [`Self::open`], of any build that is needed; retired ones are loaded too.
    async fn stack(&self, id: BuildId) -> Result<Stack, Error>;

    /// A private, empty directory in which the files of a future build are put.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Io`].
    async fn stage(&self, id: BuildId) -> Result<Staging, Error>;

    /// Turns staged files into a build: measures and digests every file, writes
    /// the manifest, makes all of it durable and then visible at once.
    ///
    /// # Errors
    /// [`Error::Draft`], [`Error::Exists`], [`Error::Io`].
    async fn publish(&self, staging: Staging, draft: Draft) -> Result<Build, Error> {
        self.publish_over(staging, draft, Below::default()).await
    }

    /// The same for a build that is based on others, which the draft's parents name.
    ///
    /// # Errors
    /// As [`Self::publish`].
    async fn publish_over(
        &self,
        staging: Staging,
        draft: Draft,
        below: Below,
    ) -> Result<Build, Error>;

    /// Takes over a build from another cache, bit for bit, comparing every byte with its
    /// manifest on the way. The copy counts as created now. Returns the build that is
    /// here, should it be here already.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the other cache's build is damaged; nothing is taken over
    /// then.
    async fn import(&self, from: &Build) -> Result<Build, Error>;
}

/// Taking builds out of a [`BuildCache`].
#[async_trait]
pub trait BuildCollection: Send + Sync {
    /// Lets no new sandbox be started from a build, for good. What still needs its files
    /// keeps them; [`Self::collect`] removes them after that.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when it is retired already.
    async fn retire(&self, id: BuildId) -> Result<(), Error>;

    /// Removes every build that nothing needs: neither a lease, nor a build that can be
    /// started from, nor somebody who cannot be read, nor a build that is based on it and
    /// stays (see [`crate::gc`]). Returns what was removed.
    ///
    /// # Errors
    /// When the builds cannot be listed. One that cannot be removed is left to the next
    /// time.
    async fn collect(&self) -> Result<Vec<BuildId>, Error>;
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
