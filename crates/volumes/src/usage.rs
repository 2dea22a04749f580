//! How much a volume holds.
//!
//! Nothing counts while guests write: usage is found by looking at every entry. What was
//! found is remembered for a while, with what was written since by way of [`crate::content`].
//!
//! However deep a tree is, counting holds one directory open: the names of those that are
//! still to be looked at are kept, and the way back up is checked, as guests move
//! directories about meanwhile.

use crate::removal::is_self_or_parent;
use crate::{VolumeId, Volumes};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long what was counted is believed.
const BELIEVED: Duration = Duration::from_secs(60);
/// How long it is remembered, for whoever cannot wait for a new count.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Counts for guests that run at the same time.
const COUNTING: usize = 2;

/// What is in a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk, each file counted once however many names it has.
    pub bytes: u64,
    /// Files, directories and others, without the root.
    pub entries: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<HashMap<VolumeId, (Instant, Usage)>>);

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
    /// Looks at every entry of a volume, however deep. Takes long for a large one.
    ///
    /// # Errors
    /// `NotFound` where there is no such volume; whatever the file system says.
    pub fn usage(&self, id: VolumeId) -> io::Result<Usage> {
        let usage = self.count(&self.open_tree(id)?)?;
        let mut counted = self
            .counted
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counted.retain(|_, (since, _)| since.elapsed() < REMEMBERED);
        counted.insert(id, (Instant::now(), usage));
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
        let used = self.used(id)?.bytes;
        Ok(free.min(self.limits.max_bytes.saturating_sub(used)))
    }

    /// Entries that may still be made in a volume, about: as far as was counted lately.
    ///
    /// # Errors
    /// As [`Self::usage`].
    pub fn entries_left(&self, id: VolumeId) -> io::Result<u64> {
        match self.limits.max_entries {
            u64::MAX => Ok(u64::MAX),
            most => Ok(most.saturating_sub(self.used(id)?.entries)),
        }
    }

    /// What a volume holds, as it was counted lately.
    fn used(&self, id: VolumeId) -> io::Result<Usage> {
        match self.counted(id) {
            Some((since, usage)) if since.elapsed() < BELIEVED => Ok(usage),
            _ => self.usage(id),
        }
    }

    /// [`Self::entries_left`] for a guest, as [`Self::room_for_guests`].
    #[must_use]
    pub fn entries_left_for_guests(self: &Arc<Self>, id: VolumeId) -> u64 {
        match self.limits.max_entries {
            u64::MAX => u64::MAX,
            most => most.saturating_sub(self.used_by_guests(id).entries),
        }
    }

    /// [`Self::room`] for a guest, whose requests wait for no count and are not refused because
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
        let used = self.used_by_guests(id).bytes;
        Ok(free.min(self.limits.max_bytes.saturating_sub(used)))
    }

    fn used_by_guests(self: &Arc<Self>, id: VolumeId) -> Usage {
        let known = self.counted(id);
        if known.is_none_or(|(since, _)| since.elapsed() >= BELIEVED) {
            self.count_beside(id);
        }
        known.map_or(Usage::default(), |(_, usage)| usage)
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

    fn counted(&self, id: VolumeId) -> Option<(Instant, Usage)> {
        let counted = self.counted.0.lock();
        let counted = counted.unwrap_or_else(PoisonError::into_inner);
        counted.get(&id).copied()
    }

    /// Notes that an entry was made.
    pub fn note_made(&self, id: VolumeId) {
        self.note(id, |used| used.entries = used.entries.saturating_add(1));
    }

    /// Notes that one entry was removed, by a guest.
    pub fn note_unlinked(&self, id: VolumeId) {
        self.note(id, |used| used.entries = used.entries.saturating_sub(1));
    }

    /// Notes that bytes were written.
    pub fn note_written(&self, id: VolumeId, bytes: u64) {
        self.note(id, |used| used.bytes = used.bytes.saturating_add(bytes));
    }

    fn note(&self, id: VolumeId, what: impl FnOnce(&mut Usage)) {
        let mut counted = self
            .counted
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, used)) = counted.get_mut(&id) {
            what(used);
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
    fn count(&self, root: &OwnedFd) -> io::Result<Usage> {
        let mut walk = Walk {
            usage: Usage::default(),
            linked: HashSet::new(),
            levels: Vec::new(),
        };
        let mut here = open_below(root, c".")?;
        walk.enter(self, &here, CString::default())?;
        while let Some(level) = walk.levels.last_mut() {
            self.go_on()?;
            if let Some(name) = level.below.pop() {
                match open_below(&here, &name) {
                    Ok(below) => {
                        walk.enter(self, &below, name)?;
                        here = below;
                    }
                    // It went away meanwhile.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            }
            walk.levels.pop();
            if !walk.levels.is_empty() {
                here = walk.back(root, &here)?;
            }
        }
        Ok(walk.usage)
    }
}

/// A directory that is being counted.
struct Level {
    name: CString,
    /// Device and inode.
    identity: (u64, u64),
    /// Directories in it that are still to be looked at.
    below: Vec<CString>,
}

struct Walk {
    usage: Usage,
    /// Files of several names that were counted.
    linked: HashSet<u64>,
    /// From the root down to where the walk is.
    levels: Vec<Level>,
}

impl Walk {
    /// Counts the entries of a directory, and goes into it.
    fn enter(&mut self, volumes: &Volumes, here: &OwnedFd, name: CString) -> io::Result<()> {
        let stat = rustix::fs::fstat(here)?;
        let mut level = Level {
            name,
            identity: (stat.st_dev, stat.st_ino),
            below: Vec::new(),
        };
        for entry in Dir::read_from(here)? {
            volumes.go_on()?;
            let entry = entry?;
            let name = entry.file_name();
            if is_self_or_parent(name) {
                continue;
            }
            let stat = match rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It went away meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            self.usage.entries += 1;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if directory || stat.st_nlink == 1 || self.linked.insert(stat.st_ino) {
                let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
                let bytes = blocks.saturating_mul(512);
                self.usage.bytes = self.usage.bytes.saturating_add(bytes);
            }
            if directory {
                level.below.push(name.to_owned());
            }
        }
        self.levels.push(level);
        Ok(())
    }

    /// Opens the last of the levels, whose child is open. Where the child was moved
    /// elsewhere, the way is looked for from the root on, as far as it still is there.
    fn back(&mut self, root: &OwnedFd, child: &OwnedFd) -> io::Result<OwnedFd> {
        let wanted = self.levels.last().map(|level| level.identity);
        if let Ok(parent) = open_below(child, c"..")
            && let Ok(stat) = rustix::fs::fstat(&parent)
            && Some((stat.st_dev, stat.st_ino)) == wanted
        {
            return Ok(parent);
        }
        let mut here = open_below(root, c".")?;
        for index in 1..self.levels.len() {
            match open_below(&here, &self.levels[index].name) {
                Ok(below) => here = below,
                Err(_) => {
                    self.levels.truncate(index);
                    break;
                }
            }
        }
        Ok(here)
    }
}

fn open_below(directory: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}
