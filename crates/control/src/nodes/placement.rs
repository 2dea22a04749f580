//! Whether, and where, a new sandbox is placed: the scheduler's choice, in the words of the
//! API.

use super::local::Known;
use crate::Control;
use crate::error::{Error, Kind, code};
use hearth_ids::BuildId;
use hearth_scheduler::{Amount, Cluster, Node, Request, State, Unplaced, rank};
use hearth_store::NodeState;

fn state(state: NodeState) -> State {
    match state {
        NodeState::Ready => State::Ready,
        NodeState::Draining => State::Draining,
        NodeState::Connecting => State::Connecting,
        NodeState::Unhealthy => State::Unhealthy,
        NodeState::Standby => State::Standby,
    }
}

/// This process's node as the scheduler sees it. How much room it has is measured by the
/// node itself at each create, and by nothing else while it is the only choice.
fn candidate(known: &Known) -> Node {
    Node {
        state: state(known.state()),
        labels: known.record.labels.clone(),
        ..Node::empty(known.record.id, Amount::BOUNDLESS)
    }
}

/// A refusal by all nodes. Clients look for how this message begins.
fn unplaced(why: &Unplaced) -> Error {
    Error::new(Kind::Unavailable, format!("Failed to place sandbox: {why}"))
        .with_code(code::CAPACITY_UNAVAILABLE)
        .never_retry()
}

impl Control {
    /// Whether a new sandbox of a build may be placed. Sandboxes that are there, paused
    /// ones among them, are where they are.
    ///
    /// # Errors
    /// `Unavailable`, with what stands in the way at which nodes.
    pub(crate) fn check_placement(&self, build: BuildId) -> Result<(), Error> {
        // A control plane that has registered no node leaves it to the node.
        let Some(known) = self.local_node.known() else {
            return Ok(());
        };
        let cluster = Cluster::from_iter([candidate(&known)]);
        let request = Request::new(build, 0, 0);
        match rank(&cluster, &request, 0) {
            Ok(_) => Ok(()),
            Err(why) => Err(unplaced(&why)),
        }
    }
}
