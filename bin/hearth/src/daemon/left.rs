//! Sandboxes of a daemon, seen from another process.

use crate::settings::Settings;
use anyhow::Context;
use hearth_layout::lock;
use hearth_node_client::NodeClient;

/// Ends the sandboxes of the daemon that runs, but for those that are paused;
/// returns how many there were.
pub async fn end_sandboxes(settings: &Settings) -> anyhow::Result<usize> {
    use hearth_control::{Node as _, NodeError, SandboxQuery};
    let node = NodeClient::unix(settings.node_socket());
    let query = SandboxQuery {
        skip_paused: true,
        ..SandboxQuery::default()
    };
    let sandboxes = node.list(query).await?;
    for sandbox in &sandboxes {
        match node.delete(&sandbox.sandbox_id).await {
            Ok(_) | Err(NodeError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sandboxes.len())
}

/// The sandboxes that the daemon left as they are, or that one would which started now.
pub fn quarantine(settings: &Settings) -> anyhow::Result<Vec<hearth_node::QuarantinedSandbox>> {
    let found = match lock::holder(&settings.pid_file()) {
        Some(_) => hearth_node::quarantine_of_daemon(&settings.run_dir),
        None => hearth_node::quarantine_to_be(&settings.state_dir),
    };
    found.context("look for sandboxes that cannot be read")
}
