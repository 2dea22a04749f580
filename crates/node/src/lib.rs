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
mod builds;
pub mod config;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod hooks;
mod host;
mod journal;
mod listing;
mod node;
mod recovery;
mod registry;
mod sandbox;
mod server;
mod service;
mod spec;
mod start_limit;
mod view;
mod warm_pool;
mod watch;

/// Leases the builds that sandboxes in this state directory need, by their journals, for
/// as long as the process lives. For use while no daemon runs.
///
/// # Errors
/// When the journals cannot be looked through.
pub fn lease_builds(
    state_dir: &std::path::Path,
    builds: &hearth_snapshot::LocalStore,
) -> std::io::Result<()> {
    journal::lease_builds(&state_dir.join("sandboxes"), builds)
}

pub use builds::BuildInfo;
pub use config::NodeConfig;
pub use error::Error;
pub use events::{Details as EventDetails, Event, EventKind, SandboxEvent, reason};
pub use node::{EndAt, Node};
pub use recovery::{QuarantinedSandbox, quarantine_of_daemon, quarantine_to_be};
pub use server::Server;
pub use spec::{PausedStatus, SandboxSpec, SandboxState, Status, TimeoutAction};
pub use view::{Info, Target};
