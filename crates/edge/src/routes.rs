//! Where sandboxes are: what the edge asks, and a table that answers.

use async_trait::async_trait;
use hearth_ids::SandboxId;
use hearth_util::RwLockExt as _;
use secrecy::SecretString;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, RwLock};
use tokio_util::sync::CancellationToken;

/// Where one running sandbox is reached, and what its visitors need.
#[derive(Debug, Clone)]
pub struct Route {
    /// The address on which each of the guest's ports is reachable from here.
    pub address: IpAddr,
    /// The agent's access token, needed to recognise signed file URLs.
    pub envd_access_token: Option<SecretString>,
    /// When set, every port but the agent's asks for this token.
    pub traffic_access_token: Option<SecretString>,
    /// The `Host` that guests see instead of the public one; `${PORT}` stands for
    /// the port.
    pub mask_request_host: Option<String>,
    /// Ports whose service speaks HTTPS itself.
    pub https_ports: Vec<u16>,
    /// Fires when the sandbox ends or pauses: everything open to it is broken off.
    pub closed: CancellationToken,
}

impl Route {
    /// A route without tokens.
    #[must_use]
    pub fn new(address: IpAddr, closed: CancellationToken) -> Self {
        Self {
            address,
            envd_access_token: None,
            traffic_access_token: None,
            mask_request_host: None,
            https_ports: Vec::new(),
            closed,
        }
    }
}

/// What a visitor showed, for whoever decides on waking a paused sandbox.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The traffic token, from a header or the query.
    pub traffic_access_token: Option<SecretString>,
    /// The agent's token, from its header.
    pub envd_access_token: Option<SecretString>,
}

/// Why a sandbox that does not run cannot be visited.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    #[error("the sandbox does not exist or may not be resumed by traffic")]
    NotFound,
    #[error("the visitor shows no traffic access token, or a wrong one")]
    TrafficToken,
    #[error("the visitor may not resume the sandbox")]
    Denied,
    #[error("the sandbox is changing its state")]
    Transitioning,
    #[error("the team has too many running sandboxes")]
    Limit,
    #[error("the sandbox could not be resumed")]
    Failed,
}

/// Whom a request is for, as far as it decides who may send it.
#[derive(Debug, Clone, Copy)]
pub struct Visited<'a> {
    /// The host of the request, without a port.
    pub host: Option<&'a str>,
    /// Absent where it is for the service behind the edge.
    pub sandbox: Option<(&'a SandboxId, u16)>,
}

/// Knows the sandboxes that run. Lookups are on the path of every request and must
/// not block.
#[async_trait]
pub trait Routes: Send + Sync + 'static {
    /// The route of a sandbox that runs now.
    fn lookup(&self, id: &SandboxId) -> Option<Arc<Route>>;

    /// Shows every running sandbox to `visit` until it breaks.
    fn visit(&self, visit: &mut dyn FnMut(&SandboxId, &Arc<Route>) -> ControlFlow<()>);

    /// Whether a peer may send this request: one that is a sandbox of this node may be
    /// kept from it by its own network rules. Asked for every request, for one
    /// connection can carry requests to many hosts.
    fn admits(&self, _peer: SocketAddr, _visited: Visited<'_>) -> bool {
        true
    }

    /// Called when `lookup` knows nothing: may resume a paused sandbox. Without an
    /// own version nothing is resumed by traffic.
    async fn wake(
        &self,
        _id: &SandboxId,
        _port: u16,
        _credentials: &Credentials,
    ) -> Result<Arc<Route>, WakeError> {
        Err(WakeError::NotFound)
    }
}

/// A [`Routes`] that is filled by hand.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: RwLock<HashMap<SandboxId, Arc<Route>>>,
}

impl RouteTable {
    /// Publishes a route. A route that it replaces is closed.
    pub fn insert(&self, id: SandboxId, route: Route) {
        let old = self.write().insert(id, Arc::new(route));
        if let Some(old) = old {
            old.closed.cancel();
        }
    }

    /// Withdraws a route and breaks off what is open on it. False when there is none.
    pub fn remove(&self, id: &SandboxId) -> bool {
        let old = self.write().remove(id);
        if let Some(old) = &old {
            old.closed.cancel();
        }
        old.is_some()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<SandboxId, Arc<Route>>> {
        self.routes.write_unpoisoned()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<SandboxId, Arc<Route>>> {
        self.routes.read_unpoisoned()
    }
}

#[async_trait]
impl Routes for RouteTable {
    fn lookup(&self, id: &SandboxId) -> Option<Arc<Route>> {
        self.read().get(id).cloned()
    }

    fn visit(&self, visit: &mut dyn FnMut(&SandboxId, &Arc<Route>) -> ControlFlow<()>) {
        for (id, route) in self.read().iter() {
            if visit(id, route).is_break() {
                return;
            }
        }
    }
}
