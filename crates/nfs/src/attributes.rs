//! Attributes of files on the wire, and changes of them.

use crate::access::{Credentials, SET_GROUP_ID, Subject, WRITE};
use crate::procedures::Failure;
use crate::status::Status;
use crate::tree::{Node, Tree};
use crate::xdr::{Malformed, Reader, Writer};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};

/// Bytes of `fattr3`.
pub(crate) const FATTR_BYTES: usize = 84;
const MODE_BITS: u32 = 0o7777;

/// A moment as the protocol has it: seconds and nanoseconds since 1970.
pub(crate) type Time = (u32, u32);

/// Writes `fattr3`.
pub(crate) fn write(writer: &mut Writer, volume: u64, stat: &Stat) {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 2,
        FileType::BlockDevice => 3,
        FileType::CharacterDevice => 4,
        FileType::Symlink => 5,
        FileType::Socket => 6,
        FileType::Fifo => 7,
        _ => 1,
    };
    writer.u32(kind);
    writer.u32(stat.st_mode & MODE_BITS);
    writer.u32(u32::try_from(stat.st_nlink).unwrap_or(u32::MAX));
    writer.u32(stat.st_uid);
    writer.u32(stat.st_gid);
    writer.u64(u64::try_from(stat.st_size).unwrap_or(0));
    writer.u64(
        u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512),
    );
    // No device is served as one.
    writer.u64(0);
    writer.u64(volume);
    writer.u64(stat.st_ino);
    for (seconds, nanoseconds) in [accessed(stat), modified(stat), changed(stat)] {
        writer.u32(seconds);
        writer.u32(nanoseconds);
    }
}

/// Writes `post_op_attr`.
pub(crate) fn write_after(writer: &mut Writer, volume: u64, stat: Option<&Stat>) {
    writer.bool(stat.is_some());
    if let Some(stat) = stat {
        write(writer, volume, stat);
    }
}

/// Writes `wcc_data`: what a client needs to tell its own change from others'. `before`
/// is only good when nobody else changes the file in between.
pub(crate) fn write_change(writer: &mut Writer, volume: u64, before: &Stat, after: Option<&Stat>) {
    writer.bool(true);
    writer.u64(u64::try_from(before.st_size).unwrap_or(0));
    for (seconds, nanoseconds) in [modified(before), changed(before)] {
        writer.u32(seconds);
        writer.u32(nanoseconds);
    }
    write_after(writer, volume, after);
}

pub(crate) fn accessed(stat: &Stat) -> Time {
    time(stat.st_atime, stat.st_atime_nsec)
}

pub(crate) fn modified(stat: &Stat) -> Time {
    time(stat.st_mtime, stat.st_mtime_nsec)
}

pub(crate) fn changed(stat: &Stat) -> Time {
    time(stat.st_ctime, stat.st_ctime_nsec)
}

/// What is before 1970 is then, and what is after 2106 as late as can be said.
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Time {
    let seconds = u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
    (seconds, nanoseconds.try_into().unwrap_or(0))
}

/// What permissions depend on.
pub(crate) fn subject(stat: &Stat) -> Subject {
    Subject {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & MODE_BITS,
        directory: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
    }
}

/// A change of a file's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SetTime {
    #[default]
    Keep,
    Now,
    To(Time),
}

impl SetTime {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u32()? {
            0 => Ok(Self::Keep),
            1 => Ok(Self::Now),
            2 => Ok(Self::To((reader.u32()?, reader.u32()?))),
            _ => Err(Malformed),
        }
    }

    fn timespec(self) -> Result<Timespec, Status> {
        let (tv_sec, tv_nsec) = match self {
            Self::Keep => (0, UTIME_OMIT),
            Self::Now => (0, UTIME_NOW),
            Self::To((_, nanoseconds)) if nanoseconds >= 1_000_000_000 => {
                return Err(Status::Invalid);
            }
            Self::To((seconds, nanoseconds)) => (i64::from(seconds), i64::from(nanoseconds)),
        };
        Ok(Timespec { tv_sec, tv_nsec })
    }
}

/// `sattr3`: what is to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: SetTime,
    pub(crate) modified: SetTime,
}

impl Changes {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            mode: reader.optional(Reader::u32)?,
            uid: reader.optional(Reader::u32)?,
            gid: reader.optional(Reader::u32)?,
            size: reader.optional(Reader::u64)?,
            accessed: SetTime::read(reader)?,
            modified: SetTime::read(reader)?,
        })
    }

    fn has_times(&self) -> bool {
        (self.accessed, self.modified) != (SetTime::Keep, SetTime::Keep)
    }

    /// Whether the caller may do all of this to the file.
    fn permitted(&self, who: &Credentials, file: &Subject) -> Result<(), Status> {
        if who.is_root() {
            return Ok(());
        }
        let changes_owner = self.uid.is_some_and(|uid| uid != file.uid);
        let foreign_group = self
            .gid
            .is_some_and(|gid| gid != file.gid && !who.is_in(gid));
        let owned = self.mode.is_some() || self.uid.is_some() || self.gid.is_some();
        let exact = |time| matches!(time, SetTime::To(_));
        let exact = exact(self.accessed) || exact(self.modified);
        if changes_owner || foreign_group || ((owned || exact) && !who.owns(file)) {
            return Err(Status::NotOwner);
        }
        let touches = self.size.is_some() || self.has_times();
        match touches && !who.may_transfer(file, WRITE) {
            true => Err(Status::Access),
            false => Ok(()),
        }
    }

    /// Makes the changes that the caller may make. Whoever changes a file holds its lock.
    pub(crate) fn apply(&self, tree: &Tree, node: &Node, who: &Credentials) -> Result<(), Failure> {
        let file = subject(&node.stat);
        self.permitted(who, &file)?;
        if let Some(size) = self.size {
            resize(tree, node, size)?;
        }
        self.give(node, &file)?;
        if let Some(mode) = self.mode {
            let gid = self.gid.unwrap_or(file.gid);
            set_mode(node, allowed_mode(mode, who, gid, file.directory))?;
        }
        self.set_times(node)
    }

    /// Owner and group, where they are to be others.
    fn give(&self, node: &Node, file: &Subject) -> Result<(), Failure> {
        let uid = self.uid.filter(|uid| *uid != file.uid);
        let gid = self.gid.filter(|gid| *gid != file.gid);
        match (uid, gid) {
            (None, None) => Ok(()),
            (uid, gid) => set_owner(node, uid, gid),
        }
    }

    fn set_times(&self, node: &Node) -> Result<(), Failure> {
        if !self.has_times() {
            return Ok(());
        }
        let times = Timestamps {
            last_access: self.accessed.timespec()?,
            last_modification: self.modified.timespec()?,
        };
        Ok(rustix::fs::utimensat(
            &node.file,
            "",
            &times,
            AtFlags::EMPTY_PATH,
        )?)
    }
}

/// Who is in none of a file's groups cannot have it run as that group.
pub(crate) fn allowed_mode(mode: u32, who: &Credentials, gid: u32, directory: bool) -> u32 {
    match directory || who.is_root() || who.is_in(gid) {
        true => mode & MODE_BITS,
        false => mode & MODE_BITS & !SET_GROUP_ID,
    }
}

/// Sets owner and group; `None` leaves one as it is. Ids that mean "none" to the kernel
/// are refused.
pub(crate) fn set_owner(node: &Node, uid: Option<u32>, gid: Option<u32>) -> Result<(), Failure> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Status::Invalid.into());
    }
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    Ok(rustix::fs::chownat(
        &node.file,
        "",
        uid,
        gid,
        AtFlags::EMPTY_PATH,
    )?)
}

/// Sets the permission bits. A symbolic link has none of its own.
pub(crate) fn set_mode(node: &Node, mode: u32) -> Result<(), Failure> {
    if node.kind() == FileType::Symlink {
        return Ok(());
    }
    let mode = Mode::from_raw_mode(mode & MODE_BITS);
    Ok(rustix::fs::chmod(node.path(), mode)?)
}

fn resize(tree: &Tree, node: &Node, size: u64) -> Result<(), Failure> {
    match node.kind() {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Status::IsDirectory.into()),
        _ => return Err(Status::Invalid.into()),
    }
    if i64::try_from(size).is_err() {
        return Err(Status::TooLarge.into());
    }
    let file = tree.open_data(node, OFlags::WRONLY)?;
    Ok(rustix::fs::ftruncate(file, size)?)
}
