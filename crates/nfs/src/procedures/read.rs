//! Procedures that change nothing.

use super::{Entry, MOST_DATA, Outcome, Request};
use crate::access::{EXECUTE, READ, WRITE};
use crate::attributes::{self, subject};
use crate::status::Status;
use crate::tree::LONGEST_NAME;
use crate::xdr::{Reader, Writer};
use rustix::fs::{FileType, OFlags};

/// GETATTR.
pub(super) fn attributes(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    attributes::write(reply, tree.fsid, &node.stat);
    Ok(())
}

/// LOOKUP.
pub(super) fn lookup(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let entry = Entry::read(arguments)?;
    let (tree, directory) = request.find(entry.directory)?;
    directory.require_directory()?;
    if !request.who.may(&subject(&directory.stat), EXECUTE) {
        return Err(Status::Access.into());
    }
    let child = tree.child(&directory, entry.name)?;
    reply.opaque(&tree.seal(&child));
    attributes::write_after(reply, tree.fsid, Some(&child.stat));
    attributes::write_after(reply, tree.fsid, directory.now().as_ref());
    Ok(())
}

/// ACCESS.
pub(super) fn access(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    const ACCESS_READ: u32 = 0x01;
    const ACCESS_LOOKUP: u32 = 0x02;
    const ACCESS_MODIFY: u32 = 0x04;
    const ACCESS_EXTEND: u32 = 0x08;
    const ACCESS_DELETE: u32 = 0x10;
    const ACCESS_EXECUTE: u32 = 0x20;
    let (tree, node) = request.node(arguments)?;
    let wanted = arguments.u32()?;
    let granted = request.who.granted(&subject(&node.stat));
    let directory = node.kind() == FileType::Directory;
    let mut answer = 0;
    if granted & READ != 0 {
        answer |= ACCESS_READ;
    }
    if granted & WRITE != 0 {
        answer |= ACCESS_MODIFY | ACCESS_EXTEND;
        answer |= if directory { ACCESS_DELETE } else { 0 };
    }
    if granted & EXECUTE != 0 {
        answer |= if directory {
            ACCESS_LOOKUP
        } else {
            ACCESS_EXECUTE
        };
    }
    attributes::write_after(reply, tree.fsid, Some(&node.stat));
    reply.u32(answer & wanted);
    Ok(())
}

/// READLINK. The target is text, and the guest's business.
pub(super) fn link(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    if node.kind() != FileType::Symlink {
        return Err(Status::Invalid.into());
    }
    let target = rustix::fs::readlinkat(&node.file, "", Vec::new())?;
    attributes::write_after(reply, tree.fsid, Some(&node.stat));
    reply.opaque(target.to_bytes());
    Ok(())
}

/// READ.
pub(super) fn data(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    let offset = arguments.u64()?;
    let count = arguments.u32()?.min(MOST_DATA);
    let file = subject(&node.stat);
    // A program's text is read where it runs.
    let who = &request.who;
    if !who.may_transfer(&file, READ) && !who.may(&file, EXECUTE) {
        return Err(Status::Access.into());
    }
    let file = tree.open_data(&node, OFlags::RDONLY)?;
    attributes::write_after(reply, tree.fsid, Some(&node.stat));
    let head = reply.len();
    reply.u32(0);
    reply.bool(false);
    let most = usize::try_from(count).map_err(|_| Status::Invalid)?;
    let size = u64::try_from(node.stat.st_size).unwrap_or(0);
    // No room is made for what is not there.
    let most = most.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX));
    let length = reply.filled(most, |room| read_at(&file, room, offset))?;
    reply.patch(head, u32::try_from(length).unwrap_or(0));
    let end = offset.saturating_add(length as u64);
    reply.patch(head + 4, u32::from(end >= size));
    Ok(())
}

fn read_at(
    file: &std::os::fd::OwnedFd,
    room: &mut [u8],
    offset: u64,
) -> Result<usize, rustix::io::Errno> {
    let mut length = 0;
    while let Some(rest) = room.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, offset.saturating_add(length as u64)) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// FSSTAT.
pub(super) fn space(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    let space = tree.file_system()?;
    let available = tree.room()?;
    attributes::write_after(reply, tree.fsid, Some(&node.stat));
    let bytes = space.f_blocks.saturating_mul(space.f_frsize);
    for number in [bytes, available, available] {
        reply.u64(number);
    }
    for number in [space.f_files, space.f_ffree, space.f_favail] {
        reply.u64(number);
    }
    // It changes all the time.
    reply.u32(0);
    Ok(())
}

/// FSINFO.
pub(super) fn limits(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    const LINKS: u32 = 0x01;
    const SYMBOLIC_LINKS: u32 = 0x02;
    const HOMOGENEOUS: u32 = 0x08;
    const TIMES: u32 = 0x10;
    const BLOCK: u32 = 4096;
    const LISTING: u32 = 64 << 10;
    let (tree, node) = request.node(arguments)?;
    attributes::write_after(reply, tree.fsid, Some(&node.stat));
    for _reading_then_writing in 0..2 {
        for number in [MOST_DATA, MOST_DATA, BLOCK] {
            reply.u32(number);
        }
    }
    reply.u32(LISTING);
    reply.u64(i64::MAX.unsigned_abs());
    // Times are exact to a nanosecond.
    reply.u32(0);
    reply.u32(1);
    reply.u32(LINKS | SYMBOLIC_LINKS | HOMOGENEOUS | TIMES);
    Ok(())
}

/// PATHCONF.
pub(super) fn path_limits(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    const MOST_LINKS: u32 = 32_000;
    let (tree, node) = request.node(arguments)?;
    attributes::write_after(reply, tree.fsid, Some(&node.stat));
    reply.u32(MOST_LINKS);
    reply.u32(u32::try_from(LONGEST_NAME).unwrap_or(u32::MAX));
    // Long names are refused, ownership is root's to give, case counts.
    for flag in [true, true, false, true] {
        reply.bool(flag);
    }
    Ok(())
}
