//! One volume's tree. Whatever is reached is reached by a handle that was made for this
//! tree, or by one name in a directory that was; no link is followed and no mount is
//! entered on the way.

use crate::handle::{HandleKey, VolumeKey};
use crate::status::Status;
use crate::sys::{self, KernelHandle};
use crate::{Error, Space};
use hearth_ids::VolumeId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfs};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest name of a file.
pub(crate) const LONGEST_NAME: usize = 255;
/// Directories above one another at most, as far as `..` is followed.
const DEEPEST: usize = 4096;
const LOCKS: usize = 64;

/// A tree that is served.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    root_handle: KernelHandle,
    place: Place,
    key: VolumeKey,
    /// What clients tell file systems apart by.
    pub(crate) fsid: u64,
    volume: VolumeId,
    space: Arc<dyn Space>,
    locks: [Mutex<()>; LOCKS],
}

/// A file's device and number.
type Place = (u64, u64);

fn place(stat: &Stat) -> Place {
    (stat.st_dev, stat.st_ino)
}

/// A file of a tree, open for nothing but to be named.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) file: OwnedFd,
    pub(crate) handle: KernelHandle,
    pub(crate) stat: Stat,
}

impl Node {
    fn new(file: OwnedFd) -> Result<Self, Errno> {
        let handle = sys::handle_of(file.as_fd())?;
        Self::with_handle(file, handle)
    }

    fn with_handle(file: OwnedFd, handle: KernelHandle) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&file)?;
        Ok(Self { file, handle, stat })
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// The file's attributes now.
    pub(crate) fn now(&self) -> Option<Stat> {
        rustix::fs::fstat(&self.file).ok()
    }

    /// A path to this very file, for calls that take no descriptor without access. Not
    /// for symbolic links, which would be followed.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// Brings the names in this directory to the disk.
    pub(crate) fn sync(&self) -> rustix::io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::openat(&self.file, ".", flags, Mode::empty())?;
        rustix::fs::fsync(open)
    }

    pub(crate) fn require_directory(&self) -> Result<(), Status> {
        match self.kind() {
            FileType::Directory => Ok(()),
            _ => Err(Status::NotDirectory),
        }
    }
}

impl Tree {
    /// Opens a volume's tree.
    ///
    /// # Errors
    /// When it is not there, or lies on a file system without handles.
    pub(crate) fn open(
        volume: VolumeId,
        path: &Path,
        key: &HandleKey,
        space: Arc<dyn Space>,
    ) -> Result<Self, Error> {
        let failed = |source: Errno| Error::Open {
            volume,
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        let no_handles = |source: Errno| Error::NoHandles {
            volume,
            path: path.to_owned(),
            source: source.into(),
        };
        let root_handle = sys::handle_of(root.as_fd()).map_err(no_handles)?;
        // A file system may name files and yet not find them by that.
        sys::open(root.as_fd(), &root_handle, OFlags::PATH).map_err(no_handles)?;
        let key = key.of(volume);
        Ok(Self {
            root,
            root_handle,
            place: place(&stat),
            fsid: u64::from_be_bytes(key.tag(b"file system")),
            key,
            volume,
            space,
            locks: [const { Mutex::new(()) }; LOCKS],
        })
    }

    /// Whether the tree is still where it was.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        rustix::fs::lstat(path).is_ok_and(|stat| place(&stat) == self.place)
    }

    /// The root's handle, as guests see it.
    pub(crate) fn root_handle(&self) -> Vec<u8> {
        self.key.seal(&self.root_handle)
    }

    /// A file's handle, as guests see it.
    pub(crate) fn seal(&self, node: &Node) -> Vec<u8> {
        self.key.seal(&node.handle)
    }

    /// Whether a handle was made for this tree; the kernel's handle in it.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<KernelHandle> {
        self.key.open(sealed)
    }

    /// Eight bytes that belong to a directory of this tree.
    pub(crate) fn cookie_verifier(&self, directory: &Node) -> [u8; 8] {
        self.key.tag(directory.handle.bytes())
    }

    /// The file that a handle names.
    pub(crate) fn node(&self, handle: KernelHandle) -> Result<Node, Status> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let file = sys::open(self.root.as_fd(), &handle, flags)?;
        Ok(Node::with_handle(file, handle)?)
    }

    /// What a name in a directory stands for. `.` and `..` are names, too; there is
    /// nothing above the root.
    pub(crate) fn child(&self, directory: &Node, name: &[u8]) -> Result<Node, Status> {
        directory.require_directory()?;
        if name == b".." {
            return self.parent(directory);
        }
        Ok(Node::new(self.beneath(directory, check(name)?)?)?)
    }

    fn beneath(&self, directory: &Node, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&directory.file, name, flags, Mode::empty(), resolve);
        match opened {
            // A mount in a volume is the host's doing, and not the guests'.
            Err(Errno::XDEV) => Err(Errno::ACCESS),
            other => other,
        }
    }

    /// The directory above, which counts only when the root is above that or is it: a
    /// directory of a volume that is being deleted may have been moved elsewhere.
    fn parent(&self, directory: &Node) -> Result<Node, Status> {
        if place(&directory.stat) == self.place {
            return self.node(self.root_handle);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let up = |from: &OwnedFd| rustix::fs::openat(from, "..", flags, Mode::empty());
        let parent = up(&directory.file)?;
        let mut at = parent.try_clone().map_err(|_| Status::ServerFault)?;
        let mut last = None;
        for _ in 0..DEEPEST {
            let here = place(&rustix::fs::fstat(&at)?);
            if here == self.place {
                return Ok(Node::new(parent)?);
            }
            // Above the topmost there is only itself.
            if last == Some(here) {
                break;
            }
            last = Some(here);
            at = up(&at)?;
        }
        Err(Status::Stale)
    }

    /// Opens a regular file's data.
    pub(crate) fn open_data(&self, node: &Node, flags: OFlags) -> Result<OwnedFd, Status> {
        match node.kind() {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Status::IsDirectory),
            _ => return Err(Status::Invalid),
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(sys::open(self.root.as_fd(), &node.handle, flags)?)
    }

    /// Whether this many new bytes may be kept.
    pub(crate) fn require_room(&self, bytes: u64) -> Result<(), Status> {
        match self.room()? > bytes {
            true => Ok(()),
            false => Err(Status::NoSpace),
        }
    }

    /// Whether one entry more may be made, of so many bytes.
    pub(crate) fn require_entry(&self, bytes: u64) -> Result<(), Status> {
        match self.space.entries(self.volume) {
            0 => Err(Status::NoSpace),
            _ => self.require_room(bytes),
        }
    }

    /// Notes a new entry.
    pub(crate) fn made(&self) {
        self.space.made(self.volume);
    }

    /// An entry was removed, or replaced by another.
    pub(crate) fn removed(&self) {
        self.space.removed(self.volume);
    }

    /// Bytes that guests may still write.
    pub(crate) fn room(&self) -> Result<u64, Status> {
        self.space.room(self.volume).map_err(|error| {
            tracing::error!(volume = %self.volume, %error, "ask for a volume's room failed");
            Status::Io
        })
    }

    /// Notes new bytes.
    pub(crate) fn written(&self, bytes: u64) {
        self.space.written(self.volume, bytes);
    }

    /// The file system that the volume is on.
    pub(crate) fn file_system(&self) -> Result<StatVfs, Status> {
        Ok(rustix::fs::fstatvfs(&self.root)?)
    }

    /// Keeps others from changing a file while its attributes before and after a change
    /// are looked at.
    pub(crate) fn lock(&self, node: &Node) -> MutexGuard<'_, ()> {
        self.lock_at(stripe(node))
    }

    /// The same for two files.
    pub(crate) fn lock_both(
        &self,
        one: &Node,
        other: &Node,
    ) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        // In one order for everybody, so that nobody waits for each other.
        let (low, high) = (
            stripe(one).min(stripe(other)),
            stripe(one).max(stripe(other)),
        );
        let first = self.lock_at(low);
        (first, (low != high).then(|| self.lock_at(high)))
    }

    fn lock_at(&self, stripe: usize) -> MutexGuard<'_, ()> {
        // There is nothing behind the lock that could be half changed.
        match self.locks.get(stripe).unwrap_or(&self.locks[0]).lock() {
            Ok(guard) => guard,
            Err(poisoned) => PoisonError::into_inner(poisoned),
        }
    }
}

fn stripe(node: &Node) -> usize {
    usize::try_from(node.stat.st_ino % LOCKS as u64).unwrap_or(0)
}

/// A name that stands for an entry of a directory: one component, and not too long.
pub(crate) fn check(name: &[u8]) -> Result<&[u8], Status> {
    if name.len() > LONGEST_NAME {
        return Err(Status::NameTooLong);
    }
    match name.is_empty() || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        true => Err(Status::Invalid),
        false => Ok(name),
    }
}

/// A name that can be given or taken away: not one that every directory has.
pub(crate) fn check_own(name: &[u8]) -> Result<&[u8], Status> {
    match check(name)? {
        b"." | b".." => Err(Status::Invalid),
        name => Ok(name),
    }
}

/// The attributes of what a name stands for, if it stands for something.
pub(crate) fn stat_name(directory: &Node, name: &[u8]) -> Result<Option<Stat>, Status> {
    match rustix::fs::statat(&directory.file, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
