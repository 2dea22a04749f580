//! Procedures that take names away, move them, or give a file another.

use super::change::refreshed;
use super::create::NAME_BYTES;
use super::{Entry, Failure, Outcome, Request};
use crate::access::{EXECUTE, WRITE};
use crate::attributes::{self, subject};
use crate::status::Status;
use crate::tree::{self, Node, Tree};
use crate::xdr::{Reader, Writer};
use rustix::fs::{AtFlags, FileType};
use std::sync::Arc;

/// A directory that names are changed in, and one of them.
struct Place<'a> {
    tree: Arc<Tree>,
    directory: Node,
    name: &'a [u8],
}

impl<'a> Place<'a> {
    fn find(request: &Request<'_>, entry: &Entry<'a>) -> Result<Self, Failure> {
        let (tree, directory) = request.find(entry.directory)?;
        directory.require_directory()?;
        let name = tree::check_own(entry.name)?;
        if !request.who.may(&subject(&directory.stat), WRITE | EXECUTE) {
            return Err(Status::Access.into());
        }
        Ok(Self {
            tree,
            directory,
            name,
        })
    }

    /// Whether the caller may take the name away, if there is one. Whoever asks holds
    /// the directory's lock.
    fn may_unlink(&self, request: &Request<'_>) -> Outcome {
        let Some(target) = tree::stat_name(&self.directory, self.name)? else {
            return Ok(());
        };
        let directory = subject(&self.directory.stat);
        match request.who.may_unlink(&directory, &subject(&target)) {
            true => Ok(()),
            false => Err(Status::Access.into()),
        }
    }
}

/// REMOVE.
pub(super) fn remove(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    unlink(request, arguments, reply, AtFlags::empty())
}

/// RMDIR.
pub(super) fn remove_directory(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    unlink(request, arguments, reply, AtFlags::REMOVEDIR)
}

fn unlink(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
    flags: AtFlags,
) -> Outcome {
    let entry = Entry::read(arguments)?;
    let place = Place::find(request, &entry)?;
    let _lock = place.tree.lock(&place.directory);
    let before = rustix::fs::fstat(&place.directory.file)?;
    place.may_unlink(request)?;
    rustix::fs::unlinkat(&place.directory.file, place.name, flags)?;
    place.tree.removed();
    let after = place.directory.now();
    attributes::write_change(reply, place.tree.fsid, &before, after.as_ref());
    Ok(())
}

/// RENAME.
pub(super) fn rename(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (from, to) = (Entry::read(arguments)?, Entry::read(arguments)?);
    let (from, to) = (Place::find(request, &from)?, Place::find(request, &to)?);
    if !Arc::ptr_eq(&from.tree, &to.tree) {
        return Err(Status::CrossDevice.into());
    }
    let _locks = from.tree.lock_both(&from.directory, &to.directory);
    let (from_dir, to_dir) = (&from.directory, &to.directory);
    let before = (
        rustix::fs::fstat(&from_dir.file)?,
        rustix::fs::fstat(&to_dir.file)?,
    );
    from.may_unlink(request)?;
    to.may_unlink(request)?;
    may_move(request, &from, before.0.st_ino != before.1.st_ino)?;
    let replaced = replaced(&from, &to)?;
    rustix::fs::renameat(&from_dir.file, from.name, &to_dir.file, to.name)?;
    if replaced {
        to.tree.removed();
    }
    // A file that is replaced by a new one is what programs keep their state by: the answer
    // promises that the new one is there after a loss of power. First where it is now.
    to_dir.sync()?;
    if before.0.st_ino != before.1.st_ino {
        from_dir.sync()?;
    }
    let fsid = from.tree.fsid;
    attributes::write_change(reply, fsid, &before.0, from_dir.now().as_ref());
    attributes::write_change(reply, fsid, &before.1, to_dir.now().as_ref());
    Ok(())
}

/// Whether a move takes the place of another entry: two names of one file both stay.
fn replaced(from: &Place<'_>, to: &Place<'_>) -> Result<bool, Failure> {
    let from = tree::stat_name(&from.directory, from.name)?;
    let to = tree::stat_name(&to.directory, to.name)?;
    Ok(from
        .zip(to)
        .is_some_and(|(from, to)| from.st_ino != to.st_ino))
}

/// A directory that gets another parent is itself changed, in its `..`.
fn may_move(request: &Request<'_>, from: &Place<'_>, elsewhere: bool) -> Outcome {
    if !elsewhere {
        return Ok(());
    }
    match tree::stat_name(&from.directory, from.name)?.map(|stat| subject(&stat)) {
        Some(moved) if moved.directory && !request.who.may(&moved, WRITE) => {
            Err(Status::Access.into())
        }
        _ => Ok(()),
    }
}

/// LINK.
pub(super) fn link(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, node) = request.node(arguments)?;
    let entry = Entry::read(arguments)?;
    let place = Place::find(request, &entry)?;
    if !Arc::ptr_eq(&tree, &place.tree) {
        return Err(Status::CrossDevice.into());
    }
    if node.kind() == FileType::Directory {
        return Err(Status::IsDirectory.into());
    }
    tree.require_entry(NAME_BYTES)?;
    let _lock = tree.lock(&place.directory);
    let before = rustix::fs::fstat(&place.directory.file)?;
    let to = &place.directory.file;
    rustix::fs::linkat(&node.file, "", to, place.name, AtFlags::EMPTY_PATH)?;
    tree.made();
    let node = refreshed(node)?;
    attributes::write_after(reply, tree.fsid, Some(&node.stat));
    let after = place.directory.now();
    attributes::write_change(reply, tree.fsid, &before, after.as_ref());
    Ok(())
}
