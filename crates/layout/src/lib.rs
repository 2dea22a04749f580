//! The files of an installation that programs beside the daemon use, too: where they
//! are below the state and the run directory, and the lock that tells whether a daemon
//! runs.
//!
//! The daemon's own files are named by its settings; those here are named once for it
//! and for the benchmarks.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod lock;

use std::path::{Path, PathBuf};

/// Where the daemon keeps its state when no setting says so.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/hearth";
/// Where the daemon has its sockets when no setting says so.
pub const DEFAULT_RUN_DIR: &str = "/run/hearth";

/// Finished builds of templates and snapshots, below the state directory.
#[must_use]
pub fn builds_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("builds")
}

/// Volumes, one folder for each, below the state directory.
#[must_use]
pub fn volumes_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("volumes")
}

/// What only the daemon's owner may read, below the state directory.
#[must_use]
pub fn keys_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("keys")
}

/// The first team's API key: one line of text.
#[must_use]
pub fn api_key_file(state_dir: &Path) -> PathBuf {
    keys_dir(state_dir).join("api-key")
}

/// The unix socket of the node's gRPC service, in the run directory.
#[must_use]
pub fn node_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("node.sock")
}

/// The file that the running daemon locks ([`lock`]), in the run directory.
#[must_use]
pub fn pid_file(run_dir: &Path) -> PathBuf {
    run_dir.join("hearth.pid")
}

/// Sockets of running sandboxes, one folder for each, in the run directory.
#[must_use]
pub fn sandbox_sockets_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("sb")
}
