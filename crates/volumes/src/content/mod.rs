//! The content of a volume, reached from outside of a sandbox.
//!
//! Guests change a tree at any moment, and they are strangers: between two system calls a
//! directory may become a link. Each path is therefore looked up by the kernel in one
//! call that neither leaves the tree nor follows a link (`openat2`), and whatever follows
//! works on the descriptor that this gave. A file is opened only after it proved to be a
//! regular one, and then it is that very file: a FIFO, a device or a socket is never
//! opened.
//!
//! Calls block: run them where that is allowed.

mod error;
mod list;
mod path;
mod upload;

pub use error::ContentError;
pub use path::EntryPath;
pub use upload::Upload;

use crate::{DEFAULT_OWNER, Usage, VolumeId, Volumes};
use chrono::{DateTime, Utc};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat as RawStat, Uid};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Permission bits that can be given: those of chmod(2).
pub const MAX_MODE: u32 = 0o7777;
/// How deep a list may go.
pub const MAX_DEPTH: u32 = 10;

type Result<T> = std::result::Result<T, ContentError>;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, a socket or a device.
    Unknown,
}

/// What is told of an entry; a link is told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last part of its path; `/` for the root. What is not UTF-8 is replaced.
    pub name: String,
    /// What it is.
    pub kind: EntryType,
    /// Absolute within the volume.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: DateTime<Utc>,
    /// Last change of its content.
    pub mtime: DateTime<Utc>,
    /// Last change of anything.
    pub ctime: DateTime<Utc>,
    /// Where a link points to.
    pub target: Option<String>,
}

/// Owner, group and permission bits; what is absent is not changed or as it is by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// At most [`MAX_MODE`].
    pub mode: Option<u32>,
}

impl Attributes {
    fn check(self) -> Result<Self> {
        if self.mode.is_some_and(|mode| mode > MAX_MODE) {
            return Err(ContentError::Invalid(
                "mode must be at most 4095 (octal 7777)",
            ));
        }
        if self.uid == Some(u32::MAX) || self.gid == Some(u32::MAX) {
            return Err(ContentError::Invalid(
                "uid and gid must be at most 4294967294",
            ));
        }
        Ok(self)
    }

    fn or_default(self, mode: u32) -> Self {
        Self {
            uid: self.uid.or(Some(DEFAULT_OWNER)),
            gid: self.gid.or(Some(DEFAULT_OWNER)),
            mode: self.mode.or(Some(mode)),
        }
    }
}

/// The content of one volume.
#[derive(Debug, Clone)]
pub struct Content {
    volumes: Arc<Volumes>,
    id: VolumeId,
    root: Arc<OwnedFd>,
}

impl Content {
    /// Opens the content of a volume.
    ///
    /// # Errors
    /// [`ContentError::NotFound`] where there is no such volume.
    pub fn open(volumes: Arc<Volumes>, id: VolumeId) -> Result<Self> {
        let root = volumes.open_tree(id).map_err(ContentError::from)?;
        let root = Arc::new(root);
        Ok(Self { volumes, id, root })
    }

    /// What an entry is.
    ///
    /// # Errors
    /// [`ContentError::NotFound`]; what a path can be wrong by.
    pub fn stat(&self, path: &EntryPath) -> Result<Entry> {
        let found = self.find(path)?;
        entry(&found, path.name(), path.text())
    }

    /// Changes owner, group and permission bits of an entry. A link's own owner is
    /// changed, permission bits it has none.
    ///
    /// # Errors
    /// As [`Self::stat`]; [`ContentError::NotSupported`] for the bits of a link.
    pub fn set(&self, path: &EntryPath, attributes: Attributes) -> Result<Entry> {
        let attributes = attributes.check()?;
        let found = self.find(path)?;
        if attributes.mode.is_some() && found.kind() == EntryType::Symlink {
            return Err(ContentError::NotSupported("a symbolic link has no mode"));
        }
        apply(&found.descriptor, attributes)?;
        self.stat(path)
    }

    /// Removes an entry and all that is below it. When this returns it is gone; what a
    /// directory held is deleted in the background.
    ///
    /// # Errors
    /// As [`Self::stat`]; [`ContentError::CannotDeleteRoot`].
    pub fn remove(&self, path: &EntryPath) -> Result<()> {
        let Some((parent, name)) = path.split() else {
            return Err(ContentError::CannotDeleteRoot);
        };
        let parent = self.directory(&parent)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(rustix::io::Errno::ISDIR) => {
                self.volumes.removal.take_at(&parent, name)?;
                self.volumes.removal.wake();
            }
            Err(error) => return Err(error.into()),
        }
        self.volumes.note_removed(self.id);
        Ok(sync(&parent)?)
    }

    /// Makes a directory. With `force` also those that it is in, and one that is there
    /// already is fine.
    ///
    /// # Errors
    /// As [`Self::stat`]; [`ContentError::Exists`].
    pub fn make_directory(
        &self,
        path: &EntryPath,
        attributes: Attributes,
        force: bool,
    ) -> Result<Entry> {
        let attributes = attributes.check()?.or_default(0o777);
        let Some((parent, name)) = path.split() else {
            // The root is there.
            return if force {
                self.stat(path)
            } else {
                Err(ContentError::Exists)
            };
        };
        self.check_room(0)?;
        let parent = self.parent(&parent, attributes, force)?;
        match self.make_one(&parent, name, attributes) {
            Err(ContentError::Exists) if force => {
                let found = self.stat(path)?;
                match found.kind {
                    EntryType::Directory => Ok(found),
                    _ => Err(ContentError::Exists),
                }
            }
            made => made.and_then(|()| self.stat(path)),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As [`Self::stat`]; [`ContentError::IsDirectory`], [`ContentError::NotSupported`]
    /// for what is neither.
    pub fn open_file(&self, path: &EntryPath) -> Result<(File, u64)> {
        let found = self.find(path)?;
        match found.kind() {
            EntryType::File => {}
            EntryType::Directory => return Err(ContentError::IsDirectory),
            EntryType::Symlink => {
                return Err(ContentError::NotSupported(
                    "it is a symbolic link: read what it points to",
                ));
            }
            EntryType::Unknown => {
                return Err(ContentError::NotSupported("it is no regular file"));
            }
        }
        // That very file, which no link can have replaced.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(magic_link(&found.descriptor), flags, Mode::empty())?;
        let size = u64::try_from(found.stat.st_size).unwrap_or(0);
        Ok((File::from(file), size))
    }

    /// How much the volume holds: see [`Volumes::usage`].
    ///
    /// # Errors
    /// [`ContentError::NotFound`] when the volume is gone.
    pub fn usage(&self) -> Result<Usage> {
        Ok(self.volumes.usage(self.id)?)
    }

    /// The directory that something is to be made in; with `force`, made where missing.
    fn parent(&self, path: &EntryPath, attributes: Attributes, force: bool) -> Result<OwnedFd> {
        if !force {
            return self.directory(path);
        }
        let attributes = Attributes {
            mode: Some(0o777),
            ..attributes
        };
        match self.directory(path) {
            Err(ContentError::NotFound) => {}
            found => return found,
        }
        for part in path.ancestors() {
            let Some((parent, name)) = part.split() else {
                continue;
            };
            match self.make_one(&self.directory(&parent)?, name, attributes) {
                Ok(()) | Err(ContentError::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        self.directory(path)
    }

    fn make_one(&self, parent: &OwnedFd, name: &str, attributes: Attributes) -> Result<()> {
        match self.check_entries() {
            // There is no room, and none is needed for what is there.
            Err(error) => match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => return Err(ContentError::Exists),
                Err(_) => return Err(error),
            },
            Ok(()) => make_directory(parent, name, attributes)?,
        }
        self.volumes.note_made(self.id);
        Ok(())
    }

    /// Refuses one entry more than a volume may have.
    fn check_entries(&self) -> Result<()> {
        match self.volumes.entries_left(self.id)? {
            0 => Err(ContentError::TooManyEntries {
                limit: self.volumes.limits.max_entries,
            }),
            _ => Ok(()),
        }
    }

    /// Refuses what the volume has no room for.
    fn check_room(&self, bytes: u64) -> Result<u64> {
        let room = self.volumes.room(self.id)?;
        if room == 0 || bytes > room {
            return Err(self.no_room());
        }
        Ok(room)
    }

    fn no_room(&self) -> ContentError {
        ContentError::NoSpace {
            limit_mib: self.volumes.limits.max_bytes >> 20,
        }
    }
}

fn make_directory(parent: &OwnedFd, name: &str, attributes: Attributes) -> Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    apply(&made, attributes)?;
    Ok(sync(parent)?)
}

/// Gives what is behind a descriptor, which may be one for looking up alone, its
/// attributes. The owner first: changing it takes bits away.
fn apply(descriptor: &OwnedFd, attributes: Attributes) -> io::Result<()> {
    let Attributes { uid, gid, mode } = attributes;
    if uid.is_some() || gid.is_some() {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(descriptor, "", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    if let Some(mode) = mode {
        rustix::fs::chmod(magic_link(descriptor), Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

/// Leads to what a descriptor is of, whatever became of its name.
fn magic_link(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// Brings the names in a directory to the disk.
fn sync(directory: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    Ok(rustix::fs::fsync(open)?)
}

// Looking a path up, in one call that stays within the tree.

/// Nothing leaves the tree, no part of the way is a link, and no other file system is
/// entered.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// An entry that was looked up and not opened.
struct Found {
    descriptor: OwnedFd,
    stat: RawStat,
}

impl Found {
    fn kind(&self) -> EntryType {
        kind(&self.stat)
    }
}

impl Content {
    /// The entry of this path, which may be a link itself.
    fn find(&self, path: &EntryPath) -> Result<Found> {
        let descriptor = match path.split() {
            None => self.look_up(path, OFlags::DIRECTORY)?,
            Some((parent, name)) => {
                let parent = self.directory(&parent)?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(parent, name, flags, Mode::empty())?
            }
        };
        let stat = rustix::fs::fstat(&descriptor)?;
        Ok(Found { descriptor, stat })
    }

    /// A directory, to look things up in.
    fn directory(&self, path: &EntryPath) -> Result<OwnedFd> {
        self.look_up(path, OFlags::DIRECTORY)
    }

    fn look_up(&self, path: &EntryPath, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let path = path.relative();
        Ok(rustix::fs::openat2(
            &*self.root,
            path,
            flags,
            Mode::empty(),
            RESOLVE,
        )?)
    }
}

fn kind(stat: &RawStat) -> EntryType {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryType::File,
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        _ => EntryType::Unknown,
    }
}

fn entry(found: &Found, name: &str, path: String) -> Result<Entry> {
    let target = match found.kind() {
        EntryType::Symlink => Some(target(found.descriptor.as_fd())?),
        _ => None,
    };
    Ok(told(&found.stat, name.to_owned(), path, target))
}

fn target(link: BorrowedFd<'_>) -> Result<String> {
    let target = rustix::fs::readlinkat(link, "", Vec::new())?;
    Ok(target.to_string_lossy().into_owned())
}

fn told(stat: &RawStat, name: String, path: String, target: Option<String>) -> Entry {
    Entry {
        name,
        kind: kind(stat),
        path,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & MAX_MODE,
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        target,
    }
}

/// A time that a guest may have set to anything; one that cannot be written is the epoch.
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> DateTime<Utc> {
    let nanoseconds = nanoseconds.try_into().unwrap_or(0);
    DateTime::from_timestamp(seconds, nanoseconds)
        .filter(|time| (0..=9999).contains(&chrono::Datelike::year(time)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
