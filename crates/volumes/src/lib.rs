//! Volumes: directory trees that outlive sandboxes. Where they are on disk, how they
//! come to be and go, and how their content is reached from outside of a sandbox.
//!
//! ```text
//!  <state>/volumes/          0700: files in a tree may have any owner and any mode
//!     <uuid>/tree/           the content of a volume, its root included
//!     .staging/<uuid>        a volume or a file that is being made: appears by one rename
//!     .removed/<name>/       what was deleted and is not yet gone from disk
//! ```
//!
//! [`Volumes`] is shared by the control plane, which makes and removes volumes, and the
//! node, which serves their trees to guests. Whatever is in a tree was put there by
//! strangers: nothing here follows a link of it or opens a special file.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod content;
mod copy;
mod mount;
mod removal;
mod usage;

pub use hearth_ids::VolumeId;
pub use mount::VolumeMount;
pub use usage::Usage;

use removal::Removal;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const STAGING: &str = ".staging";
const REMOVED: &str = ".removed";
const TREE: &str = "tree";

/// Directories within directories that a copy goes down, and a path from outside.
const MAX_DEPTH: usize = 256;

/// Permission bits of the root of a new tree.
const ROOT_MODE: Mode = Mode::from_raw_mode(0o777);
/// Owner and group of what is made where nobody says whose it is.
pub const DEFAULT_OWNER: u32 = 9090;

/// The volumes of an installation.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    removal: Removal,
    limits: Limits,
    counted: usage::Counted,
    counting: usage::Counting,
    arriving: usage::Arriving,
    copying: copy::Copying,
    /// What takes long is to end.
    stopped: AtomicBool,
}

/// How much volumes may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk of one volume.
    pub max_bytes: u64,
    /// Files, directories and others of one volume.
    pub max_entries: u64,
    /// Bytes of the file system that stay free.
    pub reserve_bytes: u64,
}

impl Limits {
    /// As much as the disk takes.
    pub const NONE: Self = Self {
        max_bytes: u64::MAX,
        max_entries: u64::MAX,
        reserve_bytes: 0,
    };
}

impl Volumes {
    /// Opens the volumes below a state directory, which may have none yet, and goes on
    /// deleting what an earlier process did not come to delete.
    ///
    /// # Errors
    /// When the directories cannot be made or read.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let root = hearth_layout::volumes_dir(state_dir);
        for directory in [root.clone(), root.join(STAGING), root.join(REMOVED)] {
            make_private(&directory)?;
        }
        let removal = Removal::start(root.join(REMOVED))?;
        let volumes = Self {
            root,
            removal,
            limits: Limits::NONE,
            counted: usage::Counted::default(),
            counting: usage::Counting::default(),
            arriving: usage::Arriving::default(),
            copying: copy::Copying::default(),
            stopped: AtomicBool::new(false),
        };
        // What was not made to its end belongs to nobody.
        for entry in std::fs::read_dir(volumes.root.join(STAGING))? {
            volumes.removal.take(&entry?.path())?;
        }
        volumes.removal.wake();
        Ok(volumes)
    }

    /// Makes an empty volume. It is whole, and on disk, when this returns.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of this id; whatever the file system says.
    pub fn create(&self, id: VolumeId) -> io::Result<()> {
        let staged = self.stage(id)?;
        self.publish(&staged, id)
    }

    /// Removes a volume, and ends copies from and to it. When this returns it is gone for
    /// whoever looks it up, also after a loss of power; its data
    /// is deleted in the background, by the next process if need be. False where there is
    /// no such volume.
    ///
    /// # Errors
    /// Whatever the file system says; the volume is as it was.
    pub fn remove(&self, id: VolumeId) -> io::Result<bool> {
        // Before it goes: a copy of it would lack what is deleted meanwhile.
        self.copying.cancel(id);
        match self.removal.take(&self.directory(id)) {
            Ok(()) => {
                // One that has begun between the two, and opened it.
                self.copying.cancel(id);
                self.removal.wake();
                sync_directory(&self.root)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a volume of this id on disk.
    #[must_use]
    pub fn exists(&self, id: VolumeId) -> bool {
        self.directory(id).is_dir()
    }

    /// Ends copies and counts that are under way, with errors, and begins no more of them:
    /// they would keep the process from ending.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Refuses to go on with what takes long.
    pub(crate) fn go_on(&self) -> io::Result<()> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the process is about to end")),
            false => Ok(()),
        }
    }

    /// The ids of the volumes on disk.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<VolumeId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<VolumeId>().ok()));
        }
        Ok(ids)
    }

    /// Where the content of a volume is, whether or not there is such a volume.
    #[must_use]
    pub fn tree(&self, id: VolumeId) -> PathBuf {
        self.directory(id).join(TREE)
    }

    /// The root of a volume's content. It stays usable when the volume is removed, and
    /// becomes empty then.
    ///
    /// # Errors
    /// `NotFound` where there is no such volume.
    pub fn open_tree(&self, id: VolumeId) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.tree(id), flags, Mode::empty())?)
    }

    /// The same with limits of what they may hold.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// How much volumes may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn directory(&self, id: VolumeId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Where something is made before it appears in its place.
    pub(crate) fn staged(&self, name: impl std::fmt::Display) -> PathBuf {
        self.root.join(STAGING).join(name.to_string())
    }

    /// An empty volume that nobody sees yet.
    pub(crate) fn stage(&self, id: VolumeId) -> io::Result<PathBuf> {
        let staged = self.staged(id);
        make_private(&staged)?;
        let tree = staged.join(TREE);
        std::fs::create_dir(&tree)?;
        rustix::fs::chmod(&tree, ROOT_MODE)?;
        Ok(staged)
    }

    pub(crate) fn publish(&self, staged: &Path, id: VolumeId) -> io::Result<()> {
        sync_directory(staged)?;
        let target = self.directory(id);
        rustix::fs::renameat_with(CWD, staged, CWD, &target, RenameFlags::NOREPLACE)?;
        sync_directory(&self.root)
    }
}

/// A directory for nobody but the daemon; one that is there already is made so.
fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    Ok(rustix::fs::chmod(directory, Mode::RWXU)?)
}

pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
