//! What can go wrong in the sandbox network, as callers need to tell it apart.

use std::io;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// An error of the slot pool.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every slot is held; the caller should answer "no capacity".
    #[error("all {max_slots} network slots are in use")]
    Exhausted {
        /// The configured limit.
        max_slots: u32,
    },
    /// The slot is not held by anybody: a stale handle or a second release.
    #[error("network slot {index} is not held")]
    NotHeld {
        /// The slot's index.
        index: u32,
    },
    /// Too many policy changes wait; try again.
    #[error("too many network policy changes are waiting")]
    Busy,
    /// The pool has been shut down.
    #[error("the network slot pool is shut down")]
    Closed,
    /// Another pool already owns this network namespace.
    #[error("another Hearth node already manages the network of this host")]
    InUse,
    /// The configuration cannot work.
    #[error("invalid network configuration: {reason}")]
    Config {
        /// What to change, in words.
        reason: String,
    },
    /// Every candidate address range overlaps something the host uses.
    #[error("no free address range for sandboxes; in use: {}", list(.conflicts))]
    NoFreeRange {
        /// `candidate: what it overlaps`, one per candidate.
        conflicts: Vec<String>,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    Io {
        /// Present-tense verb phrase.
        action: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("cannot {action}")]
    Netlink {
        /// Present-tense verb phrase.
        action: String,
        /// The cause.
        #[source]
        source: rtnetlink::Error,
    },
    /// `nft` refused a ruleset, or could not be run.
    #[error("nft cannot {action}: {detail}")]
    Nft {
        /// Present-tense verb phrase.
        action: &'static str,
        /// What `nft` said.
        detail: String,
    },
    /// The remembered state cannot be read.
    #[error("{} is not valid: {detail}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A slot that was to be adopted is not whole any more.
    #[error("network slot {index} cannot be adopted: {reason}")]
    NotAdoptable {
        /// The slot's index.
        index: u32,
        /// Which part is missing.
        reason: String,
    },
    /// The slot's TAP is still attached to a process that should be gone.
    #[error("the TAP of network slot {index} is still open in some process")]
    TapBusy {
        /// The slot's index.
        index: u32,
    },
    /// Every uid of the range has been given out.
    #[error(
        "all user ids from {first} to {last} have been used since the host was started; start it again"
    )]
    NoUser {
        /// The first of the range.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// A worker thread died; its slot has been given up.
    #[error("a network worker thread died")]
    WorkerDied,
    /// Shutting down left something behind.
    #[error("shutdown left network objects behind: {}", list(.failures))]
    Leftover {
        /// One line for each object that could not be removed.
        failures: Vec<String>,
    },
    /// An address range is too small for the configured number of slots.
    #[error("{range} has no room for {max_slots} slots")]
    RangeTooSmall {
        /// The range.
        range: Ipv4Net,
        /// The configured limit.
        max_slots: u32,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub(crate) fn errno(action: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let action = action.into();
        move |errno| Self::Io {
            action,
            source: errno.into(),
        }
    }
}

fn list(items: &[String]) -> String {
    items.join("; ")
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) use hearth_util::chain;
