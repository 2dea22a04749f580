//! Directories, in pieces. A cookie is the place in the directory that the file system
//! itself goes on from, so nothing is remembered between pieces; with it comes a
//! verifier, by which a cookie of another directory is recognised.

use super::{Outcome, Request};
use crate::access::READ;
use crate::attributes::{self, FATTR_BYTES, subject};
use crate::handle;
use crate::status::Status;
use crate::tree::{Node, Tree};
use crate::xdr::{Reader, Writer};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use std::os::fd::OwnedFd;

/// Most bytes of a piece.
const MOST_BYTES: u32 = 256 << 10;
const BUFFER: usize = 32 << 10;
/// The list's end and whether the directory's is reached.
const TAIL: usize = 8;

/// Where in a directory a piece begins, and how large it may be.
struct Piece {
    cookie: u64,
    verifier: [u8; 8],
    most: usize,
}

/// READDIR.
pub(super) fn names(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, directory) = request.node(arguments)?;
    let piece = Piece {
        cookie: arguments.u64()?,
        verifier: arguments.fixed()?,
        most: most(arguments.u32()?),
    };
    list(request, (&tree, &directory), &piece, reply, false)
}

/// READDIRPLUS: with each name what it stands for.
pub(super) fn entries(
    request: &Request<'_>,
    arguments: &mut Reader<'_>,
    reply: &mut Writer,
) -> Outcome {
    let (tree, directory) = request.node(arguments)?;
    let (cookie, verifier) = (arguments.u64()?, arguments.fixed()?);
    // How much of it are names is of no interest here.
    let _names = arguments.u32()?;
    let most = most(arguments.u32()?);
    let piece = Piece {
        cookie,
        verifier,
        most,
    };
    list(request, (&tree, &directory), &piece, reply, true)
}

fn most(count: u32) -> usize {
    usize::try_from(count.min(MOST_BYTES)).unwrap_or(0)
}

fn list(
    request: &Request<'_>,
    (tree, directory): (&Tree, &Node),
    piece: &Piece,
    reply: &mut Writer,
    plus: bool,
) -> Outcome {
    directory.require_directory()?;
    if !request.who.may(&subject(&directory.stat), READ) {
        return Err(Status::Access.into());
    }
    let verifier = tree.cookie_verifier(directory);
    if piece.cookie != 0 && piece.verifier != verifier {
        return Err(Status::BadCookie.into());
    }
    let start = reply.len();
    attributes::write_after(reply, tree.fsid, Some(&directory.stat));
    reply.fixed(&verifier);
    let opened = open(directory, piece.cookie)?;
    let limit = start.saturating_add(piece.most).saturating_sub(TAIL);
    let first = reply.len();
    let end = fill((tree, directory), &opened, limit, reply, plus)?;
    if !end && reply.len() == first {
        return Err(Status::TooSmall.into());
    }
    reply.bool(false);
    reply.bool(end);
    Ok(())
}

fn open(directory: &Node, cookie: u64) -> Result<OwnedFd, Status> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&directory.file, ".", flags, Mode::empty())?;
    if cookie != 0 {
        let known = i64::try_from(cookie).map_err(|_| Status::BadCookie)?;
        rustix::fs::seek(&opened, SeekFrom::Start(known.unsigned_abs()))
            .map_err(|_| Status::BadCookie)?;
    }
    Ok(opened)
}

/// Appends entries as far as there is room; whether those were the last ones.
fn fill(
    (tree, directory): (&Tree, &Node),
    opened: &OwnedFd,
    limit: usize,
    reply: &mut Writer,
    plus: bool,
) -> Result<bool, Status> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(opened, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let own = [&b"."[..], b".."].contains(&name);
        let before = reply.len();
        reply.bool(true);
        // What is above the root is not the guest's to know.
        reply.u64(if name == b".." {
            directory.stat.st_ino
        } else {
            entry.ino()
        });
        reply.opaque(name);
        reply.u64(entry.next_entry_cookie());
        // Before it is looked up: most that an entry takes.
        let details = if plus {
            4 + FATTR_BYTES + 8 + handle::LONGEST
        } else {
            0
        };
        if reply.len().saturating_add(details) > limit {
            reply.truncate(before);
            return Ok(false);
        }
        if plus {
            // It may be gone by now; then it has a name and no more.
            let child = if own {
                None
            } else {
                tree.child(directory, name).ok()
            };
            attributes::write_after(reply, tree.fsid, child.as_ref().map(|node| &node.stat));
            reply.bool(child.is_some());
            if let Some(child) = &child {
                reply.opaque(&tree.seal(child));
            }
        }
    }
    Ok(true)
}
