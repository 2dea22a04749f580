//! The edge's view of this node's sandboxes.

use async_trait::async_trait;
use hearth_control::{Control, Visitor, WakeRefusal};
use hearth_edge::{Credentials, Route, Routes, WakeError};
use hearth_ids::SandboxId;
use hearth_node::{Node, Target};
use std::{net::IpAddr, ops::ControlFlow, sync::Arc};

/// Asks the node at every look-up: there is no second table that could lag. What
/// is not found running is the control plane's to wake.
pub struct NodeRoutes {
    node: Arc<Node>,
    control: Arc<Control>,
}

impl NodeRoutes {
    pub fn new(node: Arc<Node>, control: Arc<Control>) -> Self {
        Self { node, control }
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

    async fn wake(
        &self,
        id: &SandboxId,
        port: u16,
        credentials: &Credentials,
    ) -> Result<Arc<Route>, WakeError> {
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
    route.envd_access_token = Some(target.envd_access_token.into());
    route.traffic_access_token = target.traffic_access_token.map(Into::into);
    route.mask_request_host = mask_request_host(&target.network_json);
    route
}

/// `maskRequestHost` of the sandbox's network settings, the JSON object of the
/// REST contract. Settings that are absent or of another form mask nothing.
fn mask_request_host(network_json: &str) -> Option<String> {
    let settings: serde_json::Value = serde_json::from_str(network_json).ok()?;
    Some(settings.get("maskRequestHost")?.as_str()?.to_owned())
}
