//! The node of this process: its registration, its heartbeats, and what is remembered of it.

use super::{NodeReport, NodeView};
use crate::error::{Error, Kind};
use crate::{Control, NodeError};
use hearth_store::{NodeMode, NodeRecord, NodeRegistration, NodeRun, NodeState};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// How many rounds a node is believed to be there after it was last heard of, so that one
/// that fails loses nothing.
const ROUNDS: u32 = 4;

/// The node that a control plane places sandboxes on.
#[derive(Debug, Clone)]
pub struct LocalNode {
    /// Names it for as long as its disk is there.
    pub id: Uuid,
    /// For people: the machine's name.
    pub name: String,
    /// Where its gRPC service is: `unix:PATH` or `HOST:PORT`.
    pub address: String,
    /// By what it is chosen.
    pub labels: BTreeMap<String, String>,
    /// Its version of Hearth.
    pub version: String,
    /// The revision of the source that it was built from; empty where that is unknown.
    pub revision: String,
    /// How often it reports. It is unhealthy when nothing was heard of it for four times as
    /// long.
    pub round: Duration,
}

impl LocalNode {
    /// How often a node usually reports.
    pub const ROUND: Duration = Duration::from_secs(10);
}

/// What is remembered of the node of this process.
#[derive(Debug, Default)]
pub(crate) struct Local {
    known: Mutex<Option<Known>>,
    /// Whoever writes the node's row waits for the answer before the next one writes, so
    /// that what is remembered is the latest.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) record: NodeRecord,
    /// Another run of the node took this one's place.
    pub(super) superseded: bool,
}

impl Known {
    /// Whether sandboxes may be placed on it. A heartbeat that is late does not count: the
    /// node is asked directly.
    pub(super) fn state(&self) -> NodeState {
        match self.superseded {
            true => NodeState::Unhealthy,
            false => self.record.mode.into(),
        }
    }
}

impl Local {
    /// `None` where no node was registered.
    pub(super) fn known(&self) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn set(&self, record: NodeRecord, superseded: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Known { record, superseded });
    }

    fn run(&self) -> Option<NodeRun> {
        self.known().map(|known| NodeRun {
            id: known.record.id,
            generation: known.record.generation,
        })
    }
}

/// What became of a heartbeat.
enum Beat {
    Heard,
    /// Another run is heard in its place, from now on.
    Superseded,
}

impl Control {
    /// Makes this process's node known, and from then on, until [`Self::shutdown`], tells
    /// how it is. What an operator wanted of it before holds from here on.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn node_register(self: &Arc<Self>, node: LocalNode) -> Result<(), Error> {
        let registration = NodeRegistration {
            id: node.id,
            instance: Uuid::new_v4(),
            name: node.name,
            address: node.address,
            labels: node.labels,
            version: node.version,
            revision: node.revision,
        };
        let round = node.round;
        let registered = self
            .store
            .node_register(registration.clone(), round * ROUNDS);
        self.local_node.set(registered.await?, false);
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = control.followers_stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = control.node_beats(&registration, round) => {}
            }
        });
        Ok(())
    }

    async fn node_beats(&self, registration: &NodeRegistration, round: Duration) {
        let mut failed = false;
        loop {
            match self.node_beat(registration, round * ROUNDS).await {
                Ok(Beat::Heard) => failed = false,
                Ok(Beat::Superseded) => {
                    tracing::error!(
                        node = %registration.id,
                        "another Hearth has registered under this node's id: this one makes no \
                         new sandboxes until it is started again"
                    );
                    return;
                }
                // Once for a node or a store that is away, however long it is.
                Err(error) if !failed => {
                    tracing::warn!(%error, "send the node's heartbeat failed");
                    failed = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(round).await;
        }
    }

    async fn node_beat(
        &self,
        registration: &NodeRegistration,
        lease: Duration,
    ) -> Result<Beat, Error> {
        let report = self.node_report().await.map_err(Error::from_node)?.write();
        let _turn = self.local_node.turn.lock().await;
        let Some(run) = self.local_node.run() else {
            return Err(Error::new(Kind::Internal, "the node is not registered"));
        };
        if let Some(record) = self.store.node_heartbeat(run, &report, lease).await? {
            self.local_node.set(record, false);
            return Ok(Beat::Heard);
        }
        if let Some(other) = self.store.node(run.id).await? {
            self.local_node.set(other, true);
            return Ok(Beat::Superseded);
        }
        // It was removed while nobody heard of it.
        let again = self.store.node_register(registration.clone(), lease);
        self.local_node.set(again.await?, false);
        Ok(Beat::Heard)
    }

    async fn node_report(&self) -> Result<NodeReport, NodeError> {
        let (info, active) = (self.node.info().await?, self.node.active().await?);
        Ok(NodeReport::new(info, &active))
    }

    /// Shows how this process's own node is now, where it answers. Answers whether it is that
    /// one.
    pub(super) async fn node_freshen(&self, view: &mut NodeView) -> bool {
        let known = self.local_node.known();
        let own = known.is_some_and(|known| known.record.instance == view.instance);
        if own && let Ok(report) = self.node_report().await {
            view.report = report;
        }
        own
    }

    /// Notes what an operator wants of a node; of this process's own one it holds at once.
    pub(super) async fn node_change(&self, id: Uuid, mode: NodeMode) -> Result<Option<()>, Error> {
        let _turn = self.local_node.turn.lock().await;
        let Some(record) = self.store.node_set_mode(id, mode).await? else {
            return Ok(None);
        };
        if let Some(known) = self.local_node.known()
            && known.record.id == id
        {
            self.local_node.set(record, known.superseded);
        }
        Ok(Some(()))
    }

    /// Says that this process's node is gone, when it does nothing more.
    pub(crate) async fn node_leave(&self) {
        let Some(run) = self.local_node.run() else {
            return;
        };
        if let Err(error) = self.store.node_leave(run).await {
            // Its lease ends by itself.
            tracing::debug!(%error, "note that the node leaves failed");
        }
    }
}
