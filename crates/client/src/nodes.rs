//! Nodes: looking, draining, forgetting. Only with a key of the operator.

use crate::Result;
use crate::control::ControlClient;
use bytes::Bytes;
use connectrpc::client::full_body;
use hearth_wire::{Node, NodeStatus, NodeStatusChange};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

impl ControlClient {
    /// All nodes, in the order of their names.
    pub async fn node_list(&self) -> Result<Vec<Node>> {
        self.get("/nodes").await
    }

    /// One node, by the id that a list told; an error with status 404 when there is none.
    pub async fn node(&self, id: &str) -> Result<Node> {
        self.get(&node_path(id)).await
    }

    /// Has a node take sandboxes, or no new ones; an error with status 409 where it cannot
    /// become so.
    pub async fn node_set_status(&self, id: &str, status: NodeStatus) -> Result<()> {
        let change = NodeStatusChange {
            cluster_id: None,
            status,
        };
        let request = self.json(Method::POST, &node_path(id), &change)?;
        self.call(request).await.map(drop)
    }

    /// Forgets a node that does not run any more; an error with status 409 of one that does.
    pub async fn node_remove(&self, id: &str) -> Result<()> {
        let request = self.request(Method::DELETE, &node_path(id), full_body(Bytes::new()))?;
        self.call(request).await.map(drop)
    }
}

fn node_path(id: &str) -> String {
    format!("/nodes/{}", utf8_percent_encode(id, NON_ALPHANUMERIC))
}
