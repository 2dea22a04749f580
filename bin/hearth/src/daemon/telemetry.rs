//! The collection's view of this node's sandboxes.

use hearth_node::{Node, SandboxState};
use hearth_telemetry::{Source, Target};
use std::net::SocketAddr;
use std::sync::Arc;

/// Port of the guest's agent.
const AGENT_PORT: u16 = 49983;

pub struct NodeSource(pub Arc<Node>);

impl Source for NodeSource {
    fn targets(&self) -> Vec<Target> {
        let running = |state| state == SandboxState::Running;
        let statuses = self.0.list().into_iter();
        statuses
            .filter(|status| running(status.state))
            .filter_map(|status| {
                let target = self.0.target(&status.spec.sandbox_id)?;
                Some(Target {
                    id: target.sandbox_id,
                    team_id: status.spec.team_id,
                    address: SocketAddr::from((target.address, AGENT_PORT)),
                    token: target.envd_access_token.map(Into::into),
                    started_at: status.started_at,
                    closed: target.closed,
                })
            })
            .collect()
    }
}
