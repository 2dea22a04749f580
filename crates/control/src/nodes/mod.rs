//! The machines that run sandboxes: what is known of each, and what an operator wants of it.
//!
//! ```text
//!  start ─▶ register ─▶ connecting ─▶ every round: ask the node, write a heartbeat
//!                                          │ refused: another run took its place
//!                                          ▼
//!                                       nothing new is placed here
//! ```
//!
//! The store holds the list; [`placement`] asks it nothing. What is known of this process's
//! own node is kept in memory, and is as old as the last heartbeat, or as the last change
//! that was made through this process. Today a control plane places on its own node alone:
//! others are listed, and can be drained for the day when it does not.

mod local;
mod members;
mod placement;
mod remote;
mod report;

pub use local::LocalNode;
pub use members::{CallingNode, Heard, Members, NodeIssuer};
pub use remote::NodeDialer;
pub(crate) use remote::RemoteNodes;
pub use report::NodeReport;

use crate::access::{Access, Action, Resource};
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::{Control, Machine};
use chrono::{DateTime, SecondsFormat, Utc};
use hearth_store::{NodeMode, NodeRecord, NodeRemoval, NodeState};
pub(crate) use local::Local;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A node, as lists show it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Names it.
    pub id: Uuid,
    /// All nodes of one store.
    pub cluster_id: Uuid,
    /// One run of its process.
    pub instance: Uuid,
    /// For people: the machine's name.
    pub name: String,
    /// Where its gRPC service is: `unix:PATH` or `HOST:PORT`.
    pub address: String,
    /// By what it is chosen.
    pub labels: BTreeMap<String, String>,
    /// Counts its registrations.
    pub generation: u64,
    /// How it is.
    pub state: NodeState,
    /// Since when.
    pub state_since: DateTime<Utc>,
    /// When this run of it last reported.
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// Its version of Hearth.
    pub version: String,
    /// The revision of the source that it was built from; empty where that is unknown.
    pub revision: String,
    /// What it said last of its machine and its sandboxes; zeros before it has.
    pub report: NodeReport,
    /// What is amiss with it although it reports, where that was looked at.
    pub problem: Option<String>,
}

impl NodeView {
    fn new(record: NodeRecord, cluster_id: Uuid) -> Self {
        let report = NodeReport::read(record.report.as_deref());
        Self {
            state: record.state(),
            state_since: record.state_since(),
            id: record.id,
            cluster_id,
            instance: record.instance,
            name: record.name,
            address: record.address,
            labels: record.labels,
            generation: record.generation,
            heartbeat_at: record.heartbeat_at,
            version: record.version,
            revision: record.revision,
            report,
            problem: None,
        }
    }

    /// Its processor.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.report.machine
    }
}

fn not_found(id: &str) -> Error {
    let shown: String = id.chars().take(64).collect();
    Error::not_found(format!("Node \"{shown}\" doesn't exist"))
}

/// What is no id names no node.
fn parsed(id: &str) -> Result<Uuid, Error> {
    id.parse().map_err(|_| not_found(id))
}

impl Control {
    /// Whether a caller runs this installation, and may do such a thing to its nodes: it
    /// has to show a key of the first team with the scope `admin`.
    ///
    /// # Errors
    /// `Forbidden`, with what would be needed.
    pub fn may_operate(&self, caller: &Caller, access: Access) -> Result<(), Error> {
        caller.may(Action {
            resource: Resource::Nodes,
            access,
        })?;
        let first = &self.config.team.slug;
        if &caller.team.slug == first {
            return Ok(());
        }
        Err(Error::new(
            Kind::Forbidden,
            format!("Nodes are the operator's: use an API key of the team \"{first}\""),
        ))
    }

    /// All nodes, in the order of their names.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn node_list(&self) -> Result<Vec<NodeView>, Error> {
        let (cluster, records) = (self.cluster_id().await?, self.store.node_list().await?);
        let mut views: Vec<NodeView> = records
            .into_iter()
            .map(|record| NodeView::new(record, cluster))
            .collect();
        for view in &mut views {
            self.node_freshen(view).await;
        }
        Ok(views)
    }

    /// One node, which is asked how it is now, also where it runs elsewhere.
    ///
    /// # Errors
    /// `NotFound`, or when the store cannot be read.
    pub async fn node_get(&self, id: &str) -> Result<NodeView, Error> {
        let record = self.store.node(parsed(id)?).await?;
        let record = record.ok_or_else(|| not_found(id))?;
        let mut view = NodeView::new(record, self.cluster_id().await?);
        if !self.node_freshen(&mut view).await {
            self.node_ask(&mut view).await;
        }
        Ok(view)
    }

    /// Has a node take sandboxes, or no new ones. What runs on it goes on.
    ///
    /// # Errors
    /// `NotFound`, also of a node in another cluster than was named; `Conflict` with the
    /// reason where the node cannot become so.
    pub async fn node_set_state(
        &self,
        id: &str,
        cluster: Option<&str>,
        wanted: NodeState,
    ) -> Result<(), Error> {
        let node = parsed(id)?;
        if let Some(cluster) = cluster
            && cluster.parse() != Ok(self.cluster_id().await?)
        {
            return Err(not_found(id));
        }
        let conflict = |why: String| Err(Error::new(Kind::Conflict, why));
        let mode = match wanted {
            NodeState::Ready => NodeMode::Ready,
            NodeState::Draining => NodeMode::Draining,
            NodeState::Standby => NodeMode::Standby,
            NodeState::Connecting | NodeState::Unhealthy => {
                return conflict(
                    "A node is connecting or unhealthy by what is heard of it, nobody makes it \
                     so: set it to \"ready\", \"draining\" or \"standby\""
                        .to_owned(),
                );
            }
        };
        let record = self.store.node(node).await?;
        let record = record.ok_or_else(|| not_found(id))?;
        if mode == NodeMode::Ready && record.state() == NodeState::Unhealthy {
            let since = record
                .state_since()
                .to_rfc3339_opts(SecondsFormat::Secs, true);
            return conflict(format!(
                "Node {} has sent no heartbeat since {since}: start Hearth on it, or remove it",
                record.name
            ));
        }
        self.node_change(node, mode)
            .await?
            .ok_or_else(|| not_found(id))
    }

    /// Forgets a node that does not run any more. It has to join anew to be one again.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` of one that still reports.
    pub async fn node_remove(&self, id: &str) -> Result<(), Error> {
        let node = parsed(id)?;
        match self.store.node_remove(node).await? {
            NodeRemoval::Removed => {
                self.store.node_identity_revoke(node).await?;
                Ok(())
            }
            NodeRemoval::Missing => Err(not_found(id)),
            NodeRemoval::Alive => Err(Error::new(
                Kind::Conflict,
                "The node still reports: stop Hearth on it first, with `hearth down`, or refuse \
                 it with `hearth node revoke` where it is another machine",
            )),
        }
    }

    async fn cluster_id(&self) -> Result<Uuid, Error> {
        Ok(self.store.cluster_id(Uuid::new_v4()).await?)
    }
}
