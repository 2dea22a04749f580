//! Whom a file belongs to that a client makes or writes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// The user; or, where the agent is not root and can give nothing away, itself.
    pub fn new(uid: u32, gid: u32) -> Self {
        if rustix::process::geteuid().is_root() {
            Self {
                uid: Uid::from_raw(uid),
                gid: Gid::from_raw(gid),
            }
        } else {
            Self {
                uid: rustix::process::geteuid(),
                gid: rustix::process::getegid(),
            }
        }
    }

    /// Gives an open file to the owner, also when it is the owner's already: watchers
    /// are told of it every time, as their clients expect. Where the file system decides
    /// alone whose its files are, as the kernel's own do, they stay so.
    pub fn take(self, file: impl AsFd) -> io::Result<()> {
        match rustix::fs::fchown(file, Some(self.uid), Some(self.gid)) {
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Makes one directory that belongs to the owner.
    ///
    /// It is given away through a descriptor that is a directory and no link: whoever
    /// may write to the parent could have put something else there meanwhile.
    pub fn make_directory(self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        self.take(directory)
    }
}
