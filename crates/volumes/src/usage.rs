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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long what was counted is believed.
const BELIEVED: Duration = Duration::from_secs(60);
/// How long it is remembered, for whoever cannot wait for a new count.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Counts for guests that run at the same time.
const COUNTING: usize = 2;
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

/// Volumes that are being counted beside the requests of guests.
#[derive(Debug, Default)]
pub(crate) struct Counting(Mutex<HashSet<VolumeId>>);

impl Counting {
    fn begin(&self, id: VolumeId) -> bool {
        let mut counting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counting.len() < COUNTING && counting.insert(id)
    }

    fn end(&self, id: VolumeId) {
        let mut counting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counting.remove(&id);
    }
}

/// Bytes of uploads under way, which no count sees, by volume.
#[derive(Debug, Default)]
pub(crate) struct Arriving(Mutex<HashMap<VolumeId, u64>>);

impl Arriving {
    /// Adds bytes of an upload; answers how many arrive at the volume in all.
    pub(crate) fn add(&self, id: VolumeId, bytes: u64) -> u64 {
        let mut arriving = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = arriving.entry(id).or_default();
        *all = all.saturating_add(bytes);
        *all
    }

    /// An upload of so many bytes is over.
    pub(crate) fn remove(&self, id: VolumeId, bytes: u64) {
        let mut arriving = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = arriving.get_mut(&id) {
            *all = all.saturating_sub(bytes);
            if *all == 0 {
                arriving.remove(&id);
            }
        }
    }
}

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
        counted.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
        counted.insert(id, (Instant::now(), usage.bytes));
        Ok(usage)
    }

    /// Bytes that may still be written to a volume, about: as far as was counted lately.
    ///
    /// # Errors
    /// As [`Self::usage`].
    pub fn room(&self, id: VolumeId) -> io::Result<u64> {
        let free = self.free()?;
        if self.limits.max_bytes == u64::MAX {
            return Ok(free);
        }
        let used = match self.counted(id) {
            Some((since, bytes)) if since.elapsed() < BELIEVED => bytes,
            _ => self.usage(id)?.bytes,
        };
        Ok(free.min(self.limits.max_bytes.saturating_sub(used)))
    }

    /// The same for a guest, whose requests wait for no count and are not refused because
    /// the process ends: by what was counted last, while a new count runs beside. Before
    /// the first count only the disk bounds it.
    ///
    /// # Errors
    /// When the file system does not say how much is free.
    pub fn room_for_guests(self: &Arc<Self>, id: VolumeId) -> io::Result<u64> {
        let free = self.free()?;
        if self.limits.max_bytes == u64::MAX {
            return Ok(free);
        }
        let known = self.counted(id);
        if known.is_none_or(|(since, _)| since.elapsed() >= BELIEVED) {
            self.count_beside(id);
        }
        let used = known.map_or(0, |(_, bytes)| bytes);
        Ok(free.min(self.limits.max_bytes.saturating_sub(used)))
    }

    fn count_beside(self: &Arc<Self>, id: VolumeId) {
        if self.go_on().is_err() || !self.counting.begin(id) {
            return;
        }
        let this = Arc::clone(self);
        let counting = move || {
            if let Err(error) = this.usage(id) {
                tracing::debug!(volume = %id, %error, "count volume failed");
            }
            this.counting.end(id);
        };
        let name = "volume-count".to_owned();
        if let Err(error) = std::thread::Builder::new().name(name).spawn(counting) {
            tracing::warn!(volume = %id, %error, "start counting volume failed");
            self.counting.end(id);
        }
    }

    /// Bytes of the disk that volumes may still fill.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free.saturating_sub(self.limits.reserve_bytes))
    }

    fn counted(&self, id: VolumeId) -> Option<(Instant, u64)> {
        let counted = self.counted.0.lock();
        let counted = counted.unwrap_or_else(PoisonError::into_inner);
        counted.get(&id).copied()
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
