//! Copying a volume.
//!
//! Files share their data with the originals where the file system can do that
//! (`FICLONE`); elsewhere their bytes are copied. Owners, modes, times, extended
//! attributes of users and hard links are kept; sockets are left out. A copy appears whole
//! or not at all; what guests write meanwhile may be in it or not. It ends when either volume
//! is removed.

use crate::removal::is_self_or_parent;
use crate::{MAX_DEPTH, VolumeId, Volumes};
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What is copied of a file at a time.
const PIECE_BYTES: u64 = 16 << 20;
/// Names of extended attributes of one file.
const MAX_ATTRIBUTE_NAMES: usize = 64 << 10;

/// Where hard-linked files were copied to: a name that leads there still.
type Linked = HashMap<u64, OwnedFd>;
/// Hard-linked files that are remembered, each by a descriptor; others become files of
/// their own.
const MAX_LINKED: usize = 1024;

/// Copies under way.
#[derive(Debug, Default)]
pub(crate) struct Copying(Mutex<Vec<Underway>>);

#[derive(Debug)]
struct Underway {
    from: VolumeId,
    to: VolumeId,
    cancelled: Arc<AtomicBool>,
}

impl Copying {
    /// Ends copies from and to a volume.
    pub(crate) fn cancel(&self, id: VolumeId) {
        let underway = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for copy in underway
            .iter()
            .filter(|copy| copy.from == id || copy.to == id)
        {
            copy.cancelled.store(true, Ordering::Relaxed);
        }
    }

    fn begin(&self, from: VolumeId, to: VolumeId) -> Ticket<'_> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut underway = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        underway.push(Underway {
            from,
            to,
            cancelled: Arc::clone(&cancelled),
        });
        Ticket {
            of: self,
            cancelled,
        }
    }
}

/// A copy under way, until this is dropped.
struct Ticket<'a> {
    of: &'a Copying,
    cancelled: Arc<AtomicBool>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut underway = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        underway.retain(|copy| !Arc::ptr_eq(&copy.cancelled, &self.cancelled));
    }
}

/// What a copy looks at before each step.
struct Run<'a> {
    volumes: &'a Volumes,
    ticket: Ticket<'a>,
}

impl Run<'_> {
    /// Refuses to go on when one of the volumes is removed, on a full disk, and when the
    /// process is about to end.
    fn check(&self) -> io::Result<()> {
        self.volumes.go_on()?;
        self.check_wanted()?;
        let disk = rustix::fs::statvfs(&self.volumes.root)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match free < self.volumes.limits.reserve_bytes {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn check_wanted(&self) -> io::Result<()> {
        match self.ticket.cancelled.load(Ordering::Relaxed) {
            true => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "a volume was deleted while it was copied",
            )),
            false => Ok(()),
        }
    }
}

impl Volumes {
    /// Copies a volume to a new one. Takes long for a large one. It is whole, and on disk,
    /// when this returns.
    ///
    /// # Errors
    /// `NotFound` where there is no such volume, or one of the two is removed meanwhile;
    /// `AlreadyExists` where the new one is
    /// there, `StorageFull` when there is no room; whatever else the file system says.
    /// Nothing is left of the copy then.
    pub fn copy(&self, from: VolumeId, to: VolumeId) -> io::Result<()> {
        // Before it is opened: what is removed from here on ends this.
        let run = Run {
            volumes: self,
            ticket: self.copying.begin(from, to),
        };
        let source = self.open_tree(from)?;
        let staged = self.stage(to)?;
        let copied = (|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let target = rustix::fs::open(staged.join(crate::TREE), flags, Mode::empty())?;
            copy_tree(&run, source, target)?;
            run.check_wanted()?;
            self.publish(&staged, to)
        })();
        if copied.is_err() {
            self.removal.take(&staged)?;
            self.removal.wake();
        }
        copied
    }
}

struct Level {
    entries: Dir,
    source: OwnedFd,
    target: OwnedFd,
    stat: Stat,
}

impl Level {
    fn open(source: OwnedFd, target: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            entries: Dir::read_from(&source)?,
            stat: rustix::fs::fstat(&source)?,
            source,
            target,
        })
    }
}

fn copy_tree(run: &Run<'_>, source: OwnedFd, target: OwnedFd) -> io::Result<()> {
    let mut linked = Linked::new();
    let mut levels = vec![Level::open(source, target)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            // After what is in it: making that changed its times.
            adopt(&level.source, &level.target, &level.stat)?;
            rustix::fs::fsync(&level.target)?;
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if is_self_or_parent(name) {
            continue;
        }
        let Some(below) = copy_entry(run, level, name, &mut linked)? else {
            continue;
        };
        if levels.len() > MAX_DEPTH {
            let message = format!("directories are nested deeper than {MAX_DEPTH}");
            return Err(io::Error::other(message));
        }
        levels.push(below);
    }
    Ok(())
}

/// Copies one entry. A directory is answered, to be gone into.
fn copy_entry(
    run: &Run<'_>,
    level: &Level,
    name: &CStr,
    linked: &mut Linked,
) -> io::Result<Option<Level>> {
    run.check()?;
    let (source, target) = (&level.source, &level.target);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::openat(source, name, flags, Mode::empty()) {
        Ok(found) => found,
        // It went away meanwhile.
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&found)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(target, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(target, name, flags, Mode::empty())?;
            let opened = reopen(&found, OFlags::DIRECTORY)?;
            return Level::open(opened, made).map(Some);
        }
        FileType::RegularFile => copy_file(run, &found, &stat, target, name, linked)?,
        FileType::Symlink => {
            let to = rustix::fs::readlinkat(&found, "", Vec::new())?;
            rustix::fs::symlinkat(to, target, name)?;
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(target, name, Some(uid), Some(gid), flags)?;
            rustix::fs::utimensat(target, name, &times(&stat), flags)?;
        }
        // Nobody listens behind a copied socket.
        FileType::Socket => {}
        kind => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(target, name, flags, Mode::empty())?;
            adopt(&found, &made, &stat)?;
        }
    }
    Ok(None)
}

fn copy_file(
    run: &Run<'_>,
    found: &OwnedFd,
    stat: &Stat,
    target: &OwnedFd,
    name: &CStr,
    linked: &mut Linked,
) -> io::Result<()> {
    if let Some(there) = linked.get(&stat.st_ino) {
        let link = magic_link(there);
        let flags = AtFlags::SYMLINK_FOLLOW;
        return Ok(rustix::fs::linkat(CWD, link, target, name, flags)?);
    }
    let from = File::from(reopen(found, OFlags::NONBLOCK)?);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::ioctl_ficlone(&to, &from) {
        Ok(()) => {}
        // Whatever the reason, and there is one on most file systems.
        Err(_) => copy_bytes(run, from, to.try_clone()?.into())?,
    }
    adopt(found, &to, stat)?;
    rustix::fs::fsync(&to)?;
    if stat.st_nlink > 1 && linked.len() < MAX_LINKED {
        linked.insert(stat.st_ino, to);
    }
    Ok(())
}

/// Copies what is written of a file; its holes stay holes.
fn copy_bytes(run: &Run<'_>, mut from: File, mut to: File) -> io::Result<()> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let length = from.metadata()?.len();
    let mut at = 0;
    while at < length {
        let data = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(data)).unwrap_or(length);
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        let wanted = hole.saturating_sub(data).min(PIECE_BYTES);
        run.check()?;
        if io::copy(&mut (&mut from).take(wanted), &mut to)? < wanted {
            // It was cut meanwhile.
            break;
        }
        at = data + wanted;
    }
    to.set_len(from.metadata()?.len().max(to.metadata()?.len()))
}

/// Gives a copy the owner, attributes, mode and times of its original.
fn adopt(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    copy_attributes(from, to)?;
    let link = magic_link(to);
    rustix::fs::chmod(&link, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(rustix::fs::utimensat(
        CWD,
        &link,
        &times(stat),
        AtFlags::empty(),
    )?)
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let (from, to) = (magic_link(from), magic_link(to));
    let mut names = vec![0; MAX_ATTRIBUTE_NAMES];
    let length = match rustix::fs::listxattr(&from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match rustix::fs::getxattr(&from, name, &mut value[..]) {
            Ok(length) => {
                rustix::fs::setxattr(&to, name, &value[..length], XattrFlags::empty())?;
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Opens that very entry for reading.
fn reopen(found: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(magic_link(found), flags, Mode::empty())?)
}

fn magic_link(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}
