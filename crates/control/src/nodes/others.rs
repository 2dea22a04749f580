//! Nodes that run elsewhere, as the control plane reaches them: a client of each, made when
//! it is first needed and anew when the node's address changes.

use super::NodeView;
use crate::node::{Node, NodeError, SandboxQuery};
use crate::{Control, NodeReport};
use hearth_store::NodeState;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// How long a node may take to say how it is: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes clients of nodes.
pub trait NodeDialer: Send + Sync {
    /// A client of a node at an address (`HOST:PORT`). It connects when it is used, and again
    /// whenever the connection is lost.
    fn dial(&self, node: Uuid, address: &str) -> Arc<dyn Node>;
}

/// The clients of nodes that run elsewhere.
#[derive(Default)]
pub(crate) struct Others {
    dialer: OnceLock<Arc<dyn NodeDialer>>,
    known: Mutex<HashMap<Uuid, Known>>,
}

struct Known {
    address: String,
    node: Arc<dyn Node>,
}

impl Others {
    /// The node at this address; nothing where this process reaches no other nodes.
    fn node(&self, id: Uuid, address: &str) -> Option<Arc<dyn Node>> {
        let dialer = self.dialer.get()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&id).filter(|known| known.address == address) {
            return Some(Arc::clone(&known.node));
        }
        let node = dialer.dial(id, address);
        let made = Known {
            address: address.to_owned(),
            node: Arc::clone(&node),
        };
        known.insert(id, made);
        Some(node)
    }

    fn forget(&self, id: Uuid) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&id);
    }
}

impl Control {
    /// Says how nodes that run elsewhere are reached. Later calls change nothing.
    pub fn connect_nodes(&self, dialer: Arc<dyn NodeDialer>) {
        let _ = self.other_nodes.dialer.set(dialer);
    }

    /// Shows how a node that runs elsewhere is now, or why it cannot be reached although it
    /// reports.
    pub(super) async fn node_ask(&self, view: &mut NodeView) {
        if view.state == NodeState::Unhealthy {
            self.other_nodes.forget(view.id);
            return;
        }
        let Some(node) = self.other_nodes.node(view.id, &view.address) else {
            return;
        };
        let asked = tokio::time::timeout(PATIENCE, report(node.as_ref()));
        match asked.await.unwrap_or(Err(NodeError::Deadline)) {
            Ok(report) => view.report = report,
            Err(error) => {
                view.problem = Some(format!(
                    "The control plane cannot use it at {}: {error}",
                    view.address
                ));
            }
        }
    }
}

async fn report(node: &dyn Node) -> Result<NodeReport, NodeError> {
    let running = SandboxQuery {
        skip_paused: true,
        ..SandboxQuery::default()
    };
    let (info, active) = (node.info().await?, node.list(running).await?);
    let active: Vec<_> = active.into_iter().map(Arc::new).collect();
    Ok(NodeReport::new(info, &active))
}
