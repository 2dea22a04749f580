//! Builds in a local directory: `<root>/<build id>/{manifest.json, ...}`.
//!
//! Staging areas live beside them under `<root>/.staging/`, on the same file
//! system, so that publishing is one `rename`. Each has a lock file that its
//! owner holds with `flock`; the kernel releases it when the owner dies, which
//! is how [`LocalStore::open`] finds what crashes left behind, without ever
//! touching a staging area in use by another process.
//!
//! Removal first renames the build into the staging area: nobody sees half a
//! build, and a crash in between leaves only something to sweep.

mod collect;
mod files;
mod holds;
mod lease;
mod publish;
mod scan;
mod stage;
mod verify;

pub use lease::Lease;

use crate::{
    Below, Build, BuildCache, BuildCollection, Draft, Error, Hold, Manifest, Stack, Staging,
};
use async_trait::async_trait;
use hearth_ids::{BuildId, SandboxId};
use lease::Register;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const STAGING: &str = ".staging";
/// Marks a build that no new sandbox is started from. No file of a build can have
/// this name.
const RETIRED: &str = ".retired";

/// The store of one machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    leases: Arc<Register>,
}

impl LocalStore {
    /// Opens the store in `root`, making the directory if need be, and sweeps
    /// what interrupted builds and removals left.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Error> {
        let inner = Inner {
            root: root.into(),
            leases: Arc::default(),
        };
        let staging = inner.staging();
        fs::create_dir_all(&staging).map_err(Error::io("create", &staging))?;
        // Machines get the files as open descriptors; nobody else has business here.
        fs::set_permissions(&inner.root, fs::Permissions::from_mode(0o700))
            .map_err(Error::io("close", &inner.root))?;
        inner.sweep()?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// A lease for as long as this process lives.
    pub fn keep(&self, id: BuildId) {
        self.inner.leases.keep(id);
    }

    /// Holds every build that is here now, for as long as this process lives: the sandbox
    /// may need any of them, for its journal does not tell which. Builds that were made
    /// after the journal was first found so, by whatever process, are not held. Blocks for
    /// moments.
    pub fn hold_for(&self, sandbox: &SandboxId, journal: &Path) {
        self.inner.hold_for(sandbox, journal);
    }

    /// What collection leaves for sandboxes and builds that cannot be read, as far as it
    /// is remembered on the disk.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn holds(&self) -> Result<Vec<Hold>, Error> {
        self.run(Inner::holds).await
    }

    /// Every readable build, the retired ones too, with what its own files occupy
    /// in bytes; oldest first.
    pub async fn list_all(&self) -> Result<Vec<(Build, u64)>, Error> {
        self.run(|inner| {
            let builds = inner.builds()?.into_iter();
            Ok(builds
                .map(|build| {
                    let bytes = scan::own_bytes(&build);
                    (build, bytes)
                })
                .collect())
        })
        .await
    }

    /// Builds that cannot be read, each with the reason. They are left as they are.
    pub async fn unreadable(&self) -> Result<Vec<(BuildId, String)>, Error> {
        self.run(|inner| {
            let found = inner.look()?.unreadable.into_iter();
            Ok(found.map(|build| (build.id, build.why)).collect())
        })
        .await
    }

    /// What [`BuildCollection::collect`] would remove now.
    pub async fn garbage(&self) -> Result<Vec<BuildId>, Error> {
        self.run(|inner| inner.collect(true)).await
    }

    /// Compares the content of a build's own files, those of at most
    /// `limit_bytes` on disk, with the manifest. Cheaper than [`Self::verify`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] names the damaged file.
    pub async fn verify_small(&self, build: &Build, limit_bytes: u64) -> Result<(), Error> {
        let build = build.clone();
        self.run(move |_| verify::verify_files(&build, limit_bytes))
            .await
    }

    /// Reads every byte of a build and compares it with the manifest.
    ///
    /// # Errors
    /// [`Error::Corrupt`] names the damaged file; [`Error::NotFound`], [`Error::Io`].
    pub async fn verify(&self, id: BuildId) -> Result<(), Error> {
        self.run(move |inner| inner.verify(id)).await
    }

    /// Removes a build; machines that hold its files open keep them. The caller makes
    /// sure that no other build needs it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub async fn remove(&self, id: BuildId) -> Result<(), Error> {
        self.run(move |inner| inner.remove(id)).await
    }

    /// Runs blocking work of this store on the blocking pool.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(Error::Task)?
    }
}

#[async_trait]
impl BuildCache for LocalStore {
    async fn list(&self) -> Result<Vec<Manifest>, Error> {
        self.run(Inner::list).await
    }

    fn lease(&self, id: BuildId) -> Lease {
        self.inner.leases.take(id)
    }

    async fn open(&self, id: BuildId) -> Result<Build, Error> {
        self.run(move |inner| inner.open(id)).await
    }

    async fn stack(&self, id: BuildId) -> Result<Stack, Error> {
        self.run(move |inner| Stack::load(inner.load(id)?, |id| inner.load(id)))
            .await
    }

    async fn stage(&self, id: BuildId) -> Result<Staging, Error> {
        self.run(move |inner| inner.stage(id)).await
    }

    async fn publish_over(
        &self,
        staging: Staging,
        draft: Draft,
        below: Below,
    ) -> Result<Build, Error> {
        self.run(move |inner| inner.publish(&staging, draft, below))
            .await
    }

    async fn import(&self, from: &Build) -> Result<Build, Error> {
        let from = from.clone();
        self.run(move |inner| inner.import(&from)).await
    }
}

#[async_trait]
impl BuildCollection for LocalStore {
    async fn retire(&self, id: BuildId) -> Result<(), Error> {
        self.run(move |inner| inner.retire(id)).await
    }

    async fn collect(&self) -> Result<Vec<BuildId>, Error> {
        self.run(|inner| inner.collect(false)).await
    }
}

impl Inner {
    fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    fn directory(&self, id: BuildId) -> PathBuf {
        self.root.join(id.to_string())
    }
}

#[cfg(test)]
mod tests;
