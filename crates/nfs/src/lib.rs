//! Volumes in guests: a server for NFS version 3 and MOUNT (RFC 1813) over TCP.
//!
//! ```text
//!  guest's kernel ──▶ 192.0.2.1:2049 ──▶ VolumeServer ── who is this address?
//!                                             │
//!                         Exports ── the volumes of that sandbox, by name
//!                             │
//!                          Tree ── one volume: files by handle, names in directories
//! ```
//!
//! Invariants:
//! - A caller is who its source address says: the kernel lets no other address out of a
//!   slot. It is served the volumes of its sandbox, and whoever has none is not served.
//! - Nothing is remembered of a client that it cannot do without: a daemon that starts
//!   anew goes on where the former one was.
//! - A file is reached by a handle that this node made for this volume, or by one name in
//!   a directory. No link is followed, no mount entered, no device made.
//! - Lengths are compared with bounds before anything is taken for them; requests under
//!   way, connections and threads are bounded for each sandbox and for all.
//!
//! What a guest says of its users is believed: its root is root of the volume. Nothing in
//! a tree is ever run or opened by name on the host.

#![deny(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod attributes;
mod dispatch;
mod exports;
mod handle;
mod losses;
mod mountd;
mod procedures;
mod record;
mod replay;
mod rpc;
mod server;
mod status;
mod sys;
mod tree;
mod xdr;

use hearth_ids::VolumeId;
use std::io;
use std::path::PathBuf;

pub use handle::HandleKey;
pub(crate) use losses::Losses;
pub use server::{Limits, ServerConfig, VolumeServer};

/// The port at which guests find the server.
pub const GUEST_PORT: u16 = 2049;
/// Volumes that one sandbox may mount.
pub const MOST_EXPORTS: usize = 16;

/// A volume that a sandbox is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Which volume.
    pub volume: VolumeId,
    /// By what the sandbox mounts it: `192.0.2.1:/<name>`. It may have slashes.
    pub name: String,
    /// Where its content is on this host.
    pub tree: PathBuf,
}

/// How much volumes may hold: of the host's disk, and each of them.
pub trait Space: std::fmt::Debug + Send + Sync {
    /// Bytes that may still be written to a volume.
    ///
    /// # Errors
    /// When that cannot be found out; then nothing new is written.
    fn room(&self, volume: VolumeId) -> io::Result<u64>;

    /// Entries that may still be made in a volume.
    fn entries(&self, volume: VolumeId) -> u64;

    /// An entry was made in a volume.
    fn made(&self, volume: VolumeId);

    /// An entry of a volume was removed, or replaced by another.
    fn removed(&self, volume: VolumeId);

    /// New bytes were written to a volume.
    fn written(&self, volume: VolumeId, bytes: u64);
}

/// Why a volume cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or cannot be read.
    #[error("open volume {volume}")]
    Open {
        /// Which volume.
        volume: VolumeId,
        /// What the host said.
        source: io::Error,
    },
    /// The host's file system cannot name files for good.
    #[error(
        "volume {volume} lies in {}, on a file system without file handles; put the state \
         directory on ext4, XFS or btrfs",
        path.display()
    )]
    NoHandles {
        /// Which volume.
        volume: VolumeId,
        /// Its tree.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// More than [`MOST_EXPORTS`].
    #[error("a sandbox can mount {MOST_EXPORTS} volumes, not {0}")]
    TooMany(usize),
}

#[cfg(test)]
mod tests;
