//! Looking a path up, in one call that stays within the tree.

use super::{Content, EntryPath, EntryType, Result, kind};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};

/// Nothing leaves the tree, no part of the way is a link, and no other file system is
/// entered.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// An entry that was looked up and not opened.
pub(super) struct Found {
    pub(super) descriptor: OwnedFd,
    pub(super) stat: Stat,
}

impl Found {
    pub(super) fn kind(&self) -> EntryType {
        kind(&self.stat)
    }
}

impl Content {
    /// The entry of this path, which may be a link itself.
    pub(super) fn find(&self, path: &EntryPath) -> Result<Found> {
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
    pub(super) fn directory(&self, path: &EntryPath) -> Result<OwnedFd> {
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
