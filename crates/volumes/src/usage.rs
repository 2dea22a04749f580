//! How much a volume holds.
//!
//! Nothing counts while guests write: usage is found by looking at every entry. What was
//! found is remembered for a while, with what was written since by way of [`crate::content`].

use crate::removal::is_self_or_parent;
use crate::{VolumeId, Volumes};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long what was counted is believed.
const BELIEVED: Duration = Duration::from_secs(60);
/// Directories within directories, each of which takes a descriptor while it is read.
const MAX_DEPTH: usize = 256;

/// What is in a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk, each file counted once however many names it has.
    pub bytes: u64,
    /// Files, directories and others, without the root.
    pub entries: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<HashMap<VolumeId, (Instant, u64)>>);

impl Volumes {
    /// Looks at every entry of a volume. Takes long for a large one. What lies deeper than
    /// 256 directories is not counted.
    ///
    /// # Errors
    /// `NotFound` where there is no such volume; whatever the file system says.
    pub fn usage(&self, id: VolumeId) -> io::Result<Usage> {
        let usage = self.count(self.open_tree(id)?)?;
        let mut counted = self
            .counted
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counted.retain(|_, (since, _)| since.elapsed() < BELIEVED);
        counted.insert(id, (Instant::now(), usage.bytes));
        Ok(usage)
    }

    /// Bytes that may still be written to a volume, about: as far as was counted lately.
    ///
    /// # Errors
    /// As [`Self::usage`].
    pub fn room(&self, id: VolumeId) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let free = free.saturating_sub(self.limits.reserve_bytes);
        if self.limits.max_bytes == u64::MAX {
            return Ok(free);
        }
        let known = {
            let counted = self
                .counted
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            counted.get(&id).copied()
        };
        let used = match known {
            Some((since, bytes)) if since.elapsed() < BELIEVED => bytes,
            _ => self.usage(id)?.bytes,
        };
        Ok(free.min(self.limits.max_bytes.saturating_sub(used)))
    }

    /// Notes that bytes were written.
    pub fn note_written(&self, id: VolumeId, bytes: u64) {
        let mut counted = self
            .counted
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, used)) = counted.get_mut(&id) {
            *used = used.saturating_add(bytes);
        }
    }

    /// Notes that something was removed: what was counted is too much.
    pub(crate) fn note_removed(&self, id: VolumeId) {
        let mut counted = self
            .counted
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counted.remove(&id);
    }

    /// Counts what is below an open directory.
    fn count(&self, root: OwnedFd) -> io::Result<Usage> {
        let mut usage = Usage::default();
        let mut linked = HashSet::new();
        let mut open = vec![(Dir::read_from(&root)?, root)];
        while let Some((directory, descriptor)) = open.last_mut() {
            self.go_on()?;
            let Some(entry) = directory.next() else {
                open.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if is_self_or_parent(name) {
                continue;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let stat = match rustix::fs::statat(&*descriptor, name, flags) {
                Ok(stat) => stat,
                // It went away meanwhile.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            usage.entries += 1;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if directory || stat.st_nlink == 1 || linked.insert(stat.st_ino) {
                let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
                usage.bytes = usage.bytes.saturating_add(blocks.saturating_mul(512));
            }
            if directory && open.len() < MAX_DEPTH {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Some((_, descriptor)) = open.last() else {
                    continue;
                };
                match rustix::fs::openat(descriptor, name, flags, Mode::empty()) {
                    Ok(below) => open.push((Dir::read_from(&below)?, below)),
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(usage)
    }
}
