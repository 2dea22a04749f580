//! Nodes: the machines that run sandboxes, and when each was last heard of.
//!
//! ```text
//!  register ─▶ connecting ──first heartbeat──▶ ready ◀──▶ draining, standby  (an operator)
//!     ▲                                          │
//!     └── another run ── unhealthy ◀── lease over┘ ──heartbeat──▶ as the operator said
//! ```
//!
//! Each registration is a new *generation* of the node. Only the present one is heard: what
//! an earlier run still says after another took its place is refused, and it learns of that
//! by the answer. Times and lengths of leases are measured by the store's clock.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// What an operator wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeMode {
    /// It takes sandboxes.
    Ready,
    /// Nothing new; what runs goes on.
    Draining,
    /// It is kept in reserve.
    Standby,
}

/// How a node is: what its operator wants, unless it has not been heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It takes sandboxes.
    Ready,
    /// Nothing new; what runs goes on.
    Draining,
    /// It is registered and has not reported yet.
    Connecting,
    /// Its lease is over.
    Unhealthy,
    /// It is kept in reserve.
    Standby,
}

impl From<NodeMode> for NodeState {
    fn from(mode: NodeMode) -> Self {
        match mode {
            NodeMode::Ready => Self::Ready,
            NodeMode::Draining => Self::Draining,
            NodeMode::Standby => Self::Standby,
        }
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Names it, for as long as its disk is there.
    pub id: Uuid,
    /// For people: the machine's name.
    pub name: String,
    /// Where its gRPC service is: `unix:PATH` or `HOST:PORT`.
    pub address: String,
    /// One run of its process.
    pub instance: Uuid,
    /// Counts its registrations.
    pub generation: u64,
    /// What an operator wants of it.
    pub mode: NodeMode,
    /// By what it is chosen.
    pub labels: BTreeMap<String, String>,
    /// Its version of Hearth.
    pub version: String,
    /// The revision of the source that it was built from; empty where that is unknown.
    pub revision: String,
    /// What it last said of its machine and sandboxes, as JSON; nothing before it has.
    pub report: Option<String>,
    /// When it was first known.
    pub registered_at: DateTime<Utc>,
    /// When this run of it last reported.
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// When its lease ends, or ended.
    pub lease_until: DateTime<Utc>,
    /// When its mode changed, or it came back.
    pub changed_at: DateTime<Utc>,
    /// Whether its lease was good when this was read.
    pub alive: bool,
}

impl NodeRecord {
    /// How it was when this was read.
    #[must_use]
    pub fn state(&self) -> NodeState {
        match (self.alive, self.heartbeat_at) {
            (false, _) => NodeState::Unhealthy,
            (true, None) => NodeState::Connecting,
            (true, Some(_)) => self.mode.into(),
        }
    }

    /// Since when it has been so.
    #[must_use]
    pub fn state_since(&self) -> DateTime<Utc> {
        match self.alive {
            true => self.changed_at,
            false => self.lease_until,
        }
    }
}

/// What a run of a node says of itself at its start.
#[derive(Debug, Clone)]
pub struct NodeRegistration {
    /// Names the node.
    pub id: Uuid,
    /// One run of its process.
    pub instance: Uuid,
    /// For people.
    pub name: String,
    /// Where its gRPC service is.
    pub address: String,
    /// By what it is chosen.
    pub labels: BTreeMap<String, String>,
    /// Its version of Hearth.
    pub version: String,
    /// The revision of the source that it was built from; empty where that is unknown.
    pub revision: String,
}

/// Which run of a node says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRun {
    /// The node.
    pub id: Uuid,
    /// Its generation, from the answer to its registration.
    pub generation: u64,
}

/// What became of the removal of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRemoval {
    /// It is forgotten.
    Removed,
    /// Its lease is good: a node that runs stays known.
    Alive,
    /// There is no such node.
    Missing,
}

/// The part of the store that keeps nodes.
#[async_trait]
pub trait NodeStore: Send + Sync {
    /// Makes a node known, or a new run of it, which is heard from then on in place of all
    /// earlier ones. What an operator wanted of it stays.
    async fn node_register(
        &self,
        registration: NodeRegistration,
        lease: Duration,
    ) -> Result<NodeRecord>;
    /// Notes what a run of a node reports, and renews its lease. `None` where that run has
    /// been superseded, or its node removed.
    async fn node_heartbeat(
        &self,
        run: NodeRun,
        report: &str,
        lease: Duration,
    ) -> Result<Option<NodeRecord>>;
    /// Ends the lease of a run that stops. Nothing happens to one that superseded it.
    async fn node_leave(&self, run: NodeRun) -> Result<()>;
    /// All nodes, in the order of their names.
    async fn node_list(&self) -> Result<Vec<NodeRecord>>;
    /// One node.
    async fn node(&self, id: Uuid) -> Result<Option<NodeRecord>>;
    /// Sets what an operator wants of a node; answers how it is then.
    async fn node_set_mode(&self, id: Uuid, mode: NodeMode) -> Result<Option<NodeRecord>>;
    /// Forgets a node whose lease is over.
    async fn node_remove(&self, id: Uuid) -> Result<NodeRemoval>;
    /// The id of all nodes of this store together: `new` where there was none before.
    async fn cluster_id(&self, new: Uuid) -> Result<Uuid>;
}
