//! Procedures that change a file: attributes and data.

use super::{Failure, MOST_DATA, Outcome, Request};
use crate::access::{SET_GROUP_ID, SET_USER_ID, WRITE};
use crate::attributes::{self, Changes, Time, changed, subject};
use crate::status::Status;
use crate::tree::{Node, Tree};
use crate::xdr::{Malformed, Reader, Writer};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// SETATTR.
pub(super) fn attributes(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    let changes = Changes::read(arguments)?;
    let guard: Option<Time> = arguments.optional(|reader| Ok((reader.u32()?, reader.u32()?)))?;
    let _lock = tree.lock(&node);
    let node = refreshed(node)?;
    if guard.is_some_and(|guard| guard != changed(&node.stat)) {
        return Err(Status::NotSynchronised.into());
    }
    changes.apply(&tree, &node, &request.who)?;
    attributes::write_change(reply, tree.fsid, &node.stat, node.now().as_ref());
    Ok(())
}

/// The file as it is now that nobody changes it.
pub(super) fn refreshed(mut node: Node) -> Result<Node, Status> {
    node.stat = rustix::fs::fstat(&node.file)?;
    Ok(node)
}

/// When written data must be on disk (`stable_how`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stable {
    Later,
    Data,
    File,
}

/// WRITE.
pub(super) fn data(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    let offset = arguments.u64()?;
    let count = usize::try_from(arguments.u32()?).map_err(|_| Failure::Malformed)?;
    let stable = match arguments.u32()? {
        0 => Stable::Later,
        1 => Stable::Data,
        2 => Stable::File,
        _ => return Err(Failure::Malformed),
    };
    let most = usize::try_from(MOST_DATA).map_err(|_| Failure::Malformed)?;
    let data = arguments.opaque(most)?.get(..count).ok_or(Malformed)?;
    if !request.who.may_transfer(&subject(&node.stat), WRITE) {
        return Err(Status::Access.into());
    }
    let file = tree.open_data(&node, OFlags::WRONLY)?;
    let lock = tree.lock(&node);
    let node = refreshed(node)?;
    let length = write_at(&tree, &node, &file, data, offset)?;
    if length > 0 && !request.who.is_root() {
        drop_set_ids(&node)?;
    }
    let after = node.now();
    drop(lock);
    let synced = match stable {
        Stable::Later => Ok(()),
        Stable::Data => rustix::fs::fdatasync(&file),
        Stable::File => rustix::fs::fsync(&file),
    };
    synced.inspect_err(|_| request.exports.data_lost())?;
    attributes::write_change(reply, tree.fsid, &node.stat, after.as_ref());
    reply.u32(u32::try_from(length).unwrap_or(0));
    reply.u32(match stable {
        Stable::Later => 0,
        Stable::Data => 1,
        Stable::File => 2,
    });
    reply.fixed(&request.exports.write_verifier());
    Ok(())
}

/// Writes as much as there is room for; an error means that nothing was written.
fn write_at(
    tree: &Tree,
    node: &Node,
    file: &OwnedFd,
    data: &[u8],
    offset: u64,
) -> Result<usize, Status> {
    let end = offset
        .checked_add(data.len() as u64)
        .ok_or(Status::TooLarge)?;
    if i64::try_from(end).is_err() {
        return Err(Status::TooLarge);
    }
    let size = u64::try_from(node.stat.st_size).unwrap_or(0);
    let kept = u64::try_from(node.stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512);
    // What is there already can be written anew on a full disk.
    let new = end > size || kept < size;
    if new {
        tree.require_room(data.len() as u64)?;
    }
    let mut length = 0;
    while let Some(rest) = data.get(length..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(file, rest, offset + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(_) if length > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    if new {
        tree.written(length as u64);
    }
    Ok(length)
}

/// What somebody else has written to is not run as its owner any more.
fn drop_set_ids(node: &Node) -> Outcome {
    let mode = subject(&node.stat).mode;
    match mode & (SET_USER_ID | SET_GROUP_ID) {
        0 => Ok(()),
        ids => attributes::set_mode(node, mode & !ids),
    }
}

/// COMMIT. All of the file, whatever part was asked for.
pub(super) fn commit(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    let _offset = arguments.u64()?;
    let _count = arguments.u32()?;
    let file = tree.open_data(&node, OFlags::RDONLY)?;
    rustix::fs::fsync(&file).inspect_err(|_| request.exports.data_lost())?;
    attributes::write_change(reply, tree.fsid, &node.stat, Some(&node.stat));
    reply.fixed(&request.exports.write_verifier());
    Ok(())
}
