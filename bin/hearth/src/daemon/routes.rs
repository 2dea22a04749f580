//! The edge's view of this node's sandboxes.

use async_trait::async_trait;
use hearth_control::{Control, Visitor, WakeRefusal};
use hearth_edge::{Credentials, Route, Routes, Visited, WakeError};
use hearth_ids::SandboxId;
use hearth_node::{Node, Target};
use serde::{Deserialize, Deserializer};
use std::{
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::Arc,
};

/// Asks the node at every look-up: there is no second table that could lag. What
/// the node has and is not found running is the control plane's to wake.
pub struct NodeRoutes {
    node: Arc<Node>,
    control: Arc<Control>,
}

impl NodeRoutes {
    pub fn new(node: Arc<Node>, control: Arc<Control>) -> Self {
        Self { node, control }
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

#[async_trait]
impl Routes for NodeRoutes {
    fn lookup(&self, id: &SandboxId) -> Option<Arc<Route>> {
        self.node.target(id).map(|target| Arc::new(route(target)))
    }

    fn visit(&self, visit: &mut dyn FnMut(&SandboxId, &Arc<Route>) -> ControlFlow<()>) {
        for id in self.node.target_ids() {
            let Some(route) = self.lookup(&id) else {
                continue;
            };
            if visit(&id, &route).is_break() {
                return;
            }
        }
    }

    fn admits(&self, peer: SocketAddr, visited: Visited<'_>) -> bool {
        self.node
            .egress_permits(peer, visited.host, visited.sandbox)
    }

    async fn wake(
        &self,
        id: &SandboxId,
        port: u16,
        credentials: &Credentials,
    ) -> Result<Arc<Route>, WakeError> {
        // Strangers ask for ids by the thousand: one look at a table in memory ends that.
        if !self.node.has(id) {
            return Err(WakeError::NotFound);
        }
        let visitor = Visitor {
            port,
            traffic_access_token: credentials.traffic_access_token.clone(),
            envd_access_token: credentials.envd_access_token.clone(),
        };
        self.control
            .sandbox_wake(id, &visitor)
            .await
            .map_err(|refusal| match refusal {
                WakeRefusal::NotFound => WakeError::NotFound,
                WakeRefusal::TrafficToken => WakeError::TrafficToken,
                WakeRefusal::Denied => WakeError::Denied,
                WakeRefusal::Transitioning => WakeError::Transitioning,
                WakeRefusal::Limit => WakeError::Limit,
                WakeRefusal::Failed => WakeError::Failed,
            })?;
        // It may have ended again since.
        self.lookup(id).ok_or(WakeError::NotFound)
    }
}

fn route(target: Target) -> Route {
    let mut route = Route::new(IpAddr::V4(target.address), target.closed);
    route.envd_access_token = target.envd_access_token.map(Into::into);
    route.traffic_access_token = target.traffic_access_token.map(Into::into);
    let incoming = Incoming::of(&target.network_json);
    route.mask_request_host = incoming.mask_request_host;
    route.https_ports = incoming.https_ports;
    route
}

/// What concerns the edge in a sandbox's network settings, the JSON object of the
/// REST contract.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Incoming {
    mask_request_host: Option<String>,
    #[serde(deserialize_with = "list")]
    https_ports: Vec<u16>,
}

impl Incoming {
    /// Settings that are absent, or cannot be read, change nothing: they were checked
    /// when they were accepted.
    fn of(network_json: &str) -> Self {
        if network_json.is_empty() {
            return Self::default();
        }
        serde_json::from_str(network_json).unwrap_or_default()
    }
}

/// A list that may be null.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_incoming_side_are_read() {
        let incoming = Incoming::of(
            r#"{"maskRequestHost":"localhost:${PORT}","httpsPorts":[8443],"denyOut":[]}"#,
        );
        assert_eq!(
            incoming.mask_request_host.as_deref(),
            Some("localhost:${PORT}")
        );
        assert_eq!(incoming.https_ports, [8443]);
        for absent in ["", "{}", r#"{"httpsPorts":null}"#, "damaged"] {
            assert!(Incoming::of(absent).https_ports.is_empty(), "{absent}");
        }
    }
}
