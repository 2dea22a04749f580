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
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes clients of nodes.
pub trait NodeDialer: Send + Sync {
    /// A client of a node at an address (`HOST:PORT`), which has to show the key that was noted
    /// when it joined. It connects when it is used, and again whenever the connection is lost.
    ///
    /// # Errors
    /// `Internal` where what was noted is no digest of a key.
    fn dial(&self, node: Uuid, address: &str, key: &str) -> Result<Arc<dyn Node>, NodeError>;
}

/// The clients of nodes that run elsewhere.
#[derive(Default)]
pub(crate) struct RemoteNodes {
    dialer: OnceLock<Arc<dyn NodeDialer>>,
    known: Mutex<HashMap<Uuid, Known>>,
}

struct Known {
    address: String,
    key: String,
    node: Arc<dyn Node>,
}

impl RemoteNodes {
    fn node(
        &self,
        dialer: &dyn NodeDialer,
        (id, address): (Uuid, &str),
        key: &str,
    ) -> Result<Arc<dyn Node>, NodeError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&Known| known.address == address && known.key == key;
        if let Some(known) = known.get(&id).filter(same) {
            return Ok(Arc::clone(&known.node));
        }
        let node = dialer.dial(id, address, key)?;
        let made = Known {
            address: address.to_owned(),
            key: key.to_owned(),
            node: Arc::clone(&node),
        };
        known.insert(id, made);
        Ok(node)
    }

    fn forget(&self, id: Uuid) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&id);
    }
}

impl Control {
    /// Says how nodes that run elsewhere are reached. Later calls change nothing.
    pub fn connect_nodes(&self, dialer: Arc<dyn NodeDialer>) {
        let _ = self.remote_nodes.dialer.set(dialer);
    }

    /// Shows how a node that runs elsewhere is now, or why it cannot be reached although it
    /// reports.
    pub(super) async fn node_ask(&self, view: &mut NodeView) {
        if view.state == NodeState::Unhealthy {
            self.remote_nodes.forget(view.id);
            return;
        }
        let Some(dialer) = self.remote_nodes.dialer.get() else {
            return;
        };
        let asked = tokio::time::timeout(REPORT_TIMEOUT, self.remote_report(dialer.as_ref(), view));
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

    async fn remote_report(
        &self,
        dialer: &dyn NodeDialer,
        view: &NodeView,
    ) -> Result<NodeReport, NodeError> {
        let identity = self.store.node_identity(view.id).await;
        let identity = identity.map_err(|error| NodeError::Unreachable(error.to_string()))?;
        // Revoked or never joined: nothing that answers there is the node.
        let Some(identity) = identity.filter(|identity| identity.revoked_at.is_none()) else {
            return Err(NodeError::Unreachable("it has not joined".to_owned()));
        };
        let at = (view.id, view.address.as_str());
        let node = self.remote_nodes.node(dialer, at, &identity.key)?;
        report(node.as_ref()).await
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
