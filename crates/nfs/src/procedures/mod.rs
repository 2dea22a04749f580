//! The procedures of NFS version 3 (RFC 1813). Each takes its arguments off a reader
//! and appends its results; a failure discards what was appended.

mod change;
mod create;
mod listing;
mod names;
mod read;

use crate::access::Credentials;
use crate::exports::Exports;
use crate::handle;
use crate::status::Status;
use crate::tree::{Node, Tree};
use crate::xdr::{Malformed, Reader, Writer};
use rustix::io::Errno;
use std::sync::Arc;

pub(crate) const PROGRAM: u32 = 100_003;
pub(crate) const VERSION: u32 = 3;
/// Most bytes that are read or written at once.
pub(crate) const MOST_DATA: u32 = 1 << 20;

/// Why a procedure has no results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Malformed,
    Status(Status),
}

impl From<Malformed> for Failure {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Status(error.into())
    }
}

type Outcome = Result<(), Failure>;

/// A procedure, and what is known of it.
#[derive(Clone, Copy)]
pub(crate) struct Procedure {
    run: fn(&Request<'_>, &mut Reader<'_>, &mut Writer) -> Outcome,
    /// Words of its results when it fails: attributes, all of them absent.
    absent: usize,
    /// Doing it twice is not the same as doing it once.
    pub(crate) once: bool,
}

/// Who asks, and what there is for them.
pub(crate) struct Request<'a> {
    pub(crate) exports: &'a Exports,
    pub(crate) who: Credentials,
}

/// The procedure of a number; `NULL` is not one of them.
pub(crate) fn procedure(number: u32) -> Option<Procedure> {
    let plain = |run, absent| Procedure {
        run,
        absent,
        once: false,
    };
    let once = |run, absent| Procedure {
        run,
        absent,
        once: true,
    };
    Some(match number {
        1 => plain(read::attributes, 0),
        2 => once(change::attributes, 2),
        3 => plain(read::lookup, 1),
        4 => plain(read::access, 1),
        5 => plain(read::link, 1),
        6 => plain(read::data, 1),
        7 => plain(change::data, 2),
        8 => once(create::file, 2),
        9 => once(create::directory, 2),
        10 => once(create::symbolic_link, 2),
        11 => once(create::special, 2),
        12 => once(names::remove, 2),
        13 => once(names::remove_directory, 2),
        14 => once(names::rename, 4),
        15 => once(names::link, 3),
        16 => plain(listing::names, 1),
        17 => plain(listing::entries, 1),
        18 => plain(read::space, 1),
        19 => plain(read::limits, 1),
        20 => plain(read::path_limits, 1),
        21 => plain(change::commit, 2),
        _ => return None,
    })
}

impl Procedure {
    /// Appends status and results. An error means that the arguments cannot be read, and
    /// that nothing was done.
    pub(crate) fn run(
        &self,
        request: &Request<'_>,
        arguments: &mut Reader<'_>,
        reply: &mut Writer,
    ) -> Result<(), Malformed> {
        let start = reply.len();
        reply.u32(0);
        match (self.run)(request, arguments, reply) {
            Ok(()) => Ok(()),
            Err(Failure::Malformed) => Err(Malformed),
            Err(Failure::Status(status)) => {
                reply.truncate(start);
                reply.u32(status as u32);
                for _ in 0..self.absent {
                    reply.bool(false);
                }
                Ok(())
            }
        }
    }
}

impl Request<'_> {
    /// The file whose handle comes next, with the tree that it is of.
    fn node(&self, arguments: &mut Reader<'_>) -> Result<(Arc<Tree>, Node), Failure> {
        let sealed = arguments.opaque(handle::LONGEST)?;
        self.find(sealed)
    }

    fn find(&self, sealed: &[u8]) -> Result<(Arc<Tree>, Node), Failure> {
        let (tree, handle) = self.exports.unseal(sealed).ok_or(Status::BadHandle)?;
        let node = tree.node(handle)?;
        Ok((tree, node))
    }
}

/// A directory and a name in it (`diropargs3`), not yet looked at.
struct Entry<'a> {
    directory: &'a [u8],
    name: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Longer names are read, to be refused as what they are.
    const LONGEST_READ: usize = 4096;

    fn read(arguments: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            directory: arguments.opaque(handle::LONGEST)?,
            name: arguments.opaque(Self::LONGEST_READ)?,
        })
    }
}
