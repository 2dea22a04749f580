//! Procedures that make files of all kinds. What is made belongs to whoever asked; in a
//! directory with the set-group-id bit, to the directory's group.

use super::change::refreshed;
use super::{Entry, Failure, Outcome, Request};
use crate::access::{EXECUTE, SET_GROUP_ID, WRITE};
use crate::attributes::{self, Changes, SetTime, Time, accessed, modified, subject};
use crate::status::Status;
use crate::tree::{self, Node, Tree};
use crate::xdr::{Reader, Writer};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::sync::Arc;

/// Bytes that a new name takes of the disk at most, with what it stands for.
pub(super) const NAME_BYTES: u64 = 8192;
/// Longest target of a symbolic link.
const LONGEST_TARGET: usize = 4095;
/// Longest target that is read, to be refused as what it is.
const LONGEST_TARGET_READ: usize = 64 << 10;

/// Where something is made.
struct Place<'a> {
    tree: Arc<Tree>,
    directory: Node,
    name: &'a [u8],
}

impl<'a> Place<'a> {
    fn find(request: &Request<'_>, entry: &Entry<'a>) -> Result<Self, Failure> {
        let (tree, directory) = request.find(entry.directory)?;
        directory.require_directory()?;
        let name = match tree::check(entry.name)? {
            b"." | b".." => return Err(Status::Exists.into()),
            name => name,
        };
        if !request.who.may(&subject(&directory.stat), WRITE | EXECUTE) {
            return Err(Status::Access.into());
        }
        Ok(Self {
            tree,
            directory,
            name,
        })
    }

    /// What the name stands for now, made for whoever asked.
    fn adopt(&self, request: &Request<'_>, changes: &Changes) -> Result<Node, Failure> {
        let made = self.tree.child(&self.directory, self.name)?;
        self.furnish(request, made, changes).inspect_err(|_| {
            // It is nobody's yet.
            let flags = rustix::fs::AtFlags::empty();
            if rustix::fs::unlinkat(&self.directory.file, self.name, flags) == Err(Errno::ISDIR) {
                let flags = rustix::fs::AtFlags::REMOVEDIR;
                let _ = rustix::fs::unlinkat(&self.directory.file, self.name, flags);
            }
        })
    }

    fn furnish(
        &self,
        request: &Request<'_>,
        made: Node,
        changes: &Changes,
    ) -> Result<Node, Failure> {
        let (who, parent) = (&request.who, subject(&self.directory.stat));
        let inherits = parent.mode & SET_GROUP_ID != 0;
        let gid = if inherits { parent.gid } else { who.gid };
        attributes::set_owner(&made, Some(who.uid), Some(gid))?;
        let made = refreshed(made)?;
        let mut changes = changes.clone();
        if inherits && made.kind() == FileType::Directory {
            let mode = changes.mode.unwrap_or(made.stat.st_mode);
            changes.mode = Some(mode | SET_GROUP_ID);
        }
        changes.apply(&self.tree, &made, who)?;
        Ok(refreshed(made)?)
    }

    /// Results of everything that makes something.
    fn answer(&self, reply: &mut Writer, before: &Stat, made: &Node) {
        reply.bool(true);
        reply.opaque(&self.tree.seal(made));
        attributes::write_after(reply, self.tree.fsid, Some(&made.stat));
        let after = self.directory.now();
        attributes::write_change(reply, self.tree.fsid, before, after.as_ref());
    }
}

/// How a file is created (`createhow3`).
enum How {
    Unchecked(Changes),
    Guarded(Changes),
    Exclusive([u8; 8]),
}

impl How {
    fn read(arguments: &mut Reader<'_>) -> Result<Self, Failure> {
        match arguments.u32()? {
            0 => Ok(Self::Unchecked(Changes::read(arguments)?)),
            1 => Ok(Self::Guarded(Changes::read(arguments)?)),
            2 => Ok(Self::Exclusive(arguments.fixed()?)),
            _ => Err(Failure::Malformed),
        }
    }
}

/// CREATE.
pub(super) fn file(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let entry = Entry::read(arguments)?;
    let how = How::read(arguments)?;
    let place = Place::find(request, &entry)?;
    let lock = place.tree.lock(&place.directory);
    let before = rustix::fs::fstat(&place.directory.file)?;
    let made = match create_new(&place) {
        Ok(()) => place.adopt(request, &how.changes())?,
        Err(Status::Exists) => existing(request, &place, &how)?,
        Err(status) => return Err(status.into()),
    };
    place.answer(reply, &before, &made);
    drop(lock);
    Ok(())
}

impl How {
    fn changes(&self) -> Changes {
        match self {
            Self::Unchecked(changes) | Self::Guarded(changes) => changes.clone(),
            Self::Exclusive(verifier) => {
                let (accessed, modified) = marks(*verifier);
                Changes {
                    accessed: SetTime::To(accessed),
                    modified: SetTime::To(modified),
                    ..Changes::default()
                }
            }
        }
    }
}

/// An exclusive creation is remembered in the new file's times: by them a repeated
/// request is told from another's. The client sets them right afterwards.
fn marks(verifier: [u8; 8]) -> (Time, Time) {
    let number = u64::from_be_bytes(verifier);
    // Seconds that every file system keeps.
    let seconds = |bits: u64| u32::try_from(bits & 0x7fff_ffff).unwrap_or(0);
    ((seconds(number >> 32), 0), (seconds(number), 0))
}

fn create_new(place: &Place<'_>) -> Result<(), Status> {
    place.tree.require_entry(NAME_BYTES)?;
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let (directory, mode) = (&place.directory.file, Mode::empty());
    rustix::fs::openat(directory, place.name, flags, mode)?;
    place.tree.made();
    Ok(())
}

/// Creates what is there already, if that is allowed.
fn existing(request: &Request<'_>, place: &Place<'_>, how: &How) -> Result<Node, Failure> {
    let found = place.tree.child(&place.directory, place.name)?;
    if found.kind() != FileType::RegularFile {
        return Err(Status::Exists.into());
    }
    match how {
        How::Guarded(_) => Err(Status::Exists.into()),
        How::Exclusive(verifier) => {
            let times = (accessed(&found.stat), modified(&found.stat));
            match times == marks(*verifier) {
                true => Ok(found),
                false => Err(Status::Exists.into()),
            }
        }
        How::Unchecked(changes) => {
            // Of a file that is there only the length is changed.
            let changes = Changes {
                size: changes.size,
                ..Changes::default()
            };
            changes.apply(&place.tree, &found, &request.who)?;
            Ok(refreshed(found)?)
        }
    }
}

/// MKDIR.
pub(super) fn directory(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let entry = Entry::read(arguments)?;
    let changes = Changes::read(arguments)?;
    make(request, &entry, &changes, reply, |place| {
        rustix::fs::mkdirat(&place.directory.file, place.name, Mode::RWXU)
    })
}

/// SYMLINK.
pub(super) fn symbolic_link(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let entry = Entry::read(arguments)?;
    let changes = Changes::read(arguments)?;
    let target = arguments.opaque(LONGEST_TARGET_READ)?;
    if target.len() > LONGEST_TARGET {
        return Err(Status::NameTooLong.into());
    }
    if target.is_empty() || target.contains(&0) {
        return Err(Status::Invalid.into());
    }
    make(request, &entry, &changes, reply, |place| {
        rustix::fs::symlinkat(target, &place.directory.file, place.name)
    })
}

/// MKNOD. Pipes and sockets, which mean something within one guest alone; no devices.
pub(super) fn special(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    const BLOCK: u32 = 3;
    const CHARACTER: u32 = 4;
    const SOCKET: u32 = 6;
    const FIFO: u32 = 7;
    let entry = Entry::read(arguments)?;
    let kind = match arguments.u32()? {
        SOCKET => FileType::Socket,
        FIFO => FileType::Fifo,
        BLOCK | CHARACTER => return Err(Status::NotOwner.into()),
        _ => return Err(Status::BadType.into()),
    };
    let changes = Changes::read(arguments)?;
    make(request, &entry, &changes, reply, |place| {
        rustix::fs::mknodat(&place.directory.file, place.name, kind, Mode::empty(), 0)
    })
}

fn make(
    request: &Request<'_>,
    entry: &Entry<'_>,
    changes: &Changes,
    reply: &mut Writer,
    with: impl FnOnce(&Place<'_>) -> Result<(), Errno>,
) -> Outcome {
    let place = Place::find(request, entry)?;
    place.tree.require_entry(NAME_BYTES)?;
    let lock = place.tree.lock(&place.directory);
    let before = rustix::fs::fstat(&place.directory.file)?;
    with(&place)?;
    place.tree.made();
    // None of these has a length to set.
    let changes = Changes {
        size: None,
        ..changes.clone()
    };
    let made = place.adopt(request, &changes)?;
    place.answer(reply, &before, &made);
    drop(lock);
    Ok(())
}
