//! One node: the sandboxes of one machine.
//!
//! [`Node`] is the whole of it, free of transport; [`Server`] puts it behind the
//! gRPC service of `hearth-node-proto`. The journals under
//! `<state>/sandboxes/<id>/` are the truth about what runs: a new daemon reads
//! them, adopts the VMs that still run, keeps what is paused and cleans up after the
//! others (see `recovery`). Who owns a sandbox and what its metadata mean is not known here.

#![forbid(unsafe_code)]

mod admission;
mod artefacts;
pub mod config;
mod error;
pub mod hooks;
mod journal;
mod listing;
mod node;
mod processor;
mod recovery;
mod registry;
mod sandbox;
mod server;
mod service;
mod spec;
mod warm_pool;

/// Builds that sandboxes in this state directory need, by their journals. For use
/// while no daemon runs.
///
/// # Errors
/// When a journal cannot be read that may name others: then nothing is known to be
/// needless.
pub fn kept_builds(
    state_dir: &std::path::Path,
) -> std::io::Result<std::collections::BTreeSet<hearth_ids::BuildId>> {
    journal::kept_builds(&state_dir.join("sandboxes"))
}

pub use config::NodeConfig;
pub use error::Error;
pub use node::{BuildInfo, EndAt, Info, Node, Target};
pub use recovery::{QuarantinedSandbox, quarantine_of_daemon, quarantine_to_be};
pub use server::Server;
pub use spec::{PausedStatus, SandboxSpec, SandboxState, Status, TimeoutAction};
