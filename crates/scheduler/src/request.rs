//! What is asked for.

use crate::{Amount, Node, Platform, Refusal, State};
use hearth_ids::BuildId;
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

/// A sandbox that needs a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it is started from.
    pub build: BuildId,
    /// What it takes.
    pub needs: Amount,
    /// Labels that its node must have.
    pub labels: BTreeMap<String, String>,
    /// The one node that an operator named.
    pub node: Option<Uuid>,
    /// What its memory was saved on, where a memory is to be restored.
    pub platform: Option<Platform>,
    /// Whether the build has to be there already, as it cannot be fetched.
    pub build_must_be_there: bool,
    /// Nodes that refused it before.
    pub excluded: HashSet<Uuid>,
}

impl Request {
    /// One sandbox of this build that takes one slot and so much memory and processors.
    #[must_use]
    pub fn new(build: BuildId, memory_mib: u64, vcpus: u64) -> Self {
        Self {
            build,
            needs: Amount {
                memory_mib,
                vcpus,
                slots: 1,
            },
            labels: BTreeMap::new(),
            node: None,
            platform: None,
            build_must_be_there: false,
            excluded: HashSet::new(),
        }
    }

    /// Why a node cannot take it: the first of the reasons, and `None` where it can.
    #[must_use]
    pub fn refused_by(&self, node: &Node) -> Option<Refusal> {
        if self.node.is_some_and(|wanted| wanted != node.id) {
            return Some(Refusal::AnotherNode);
        }
        if self.excluded.contains(&node.id) {
            return Some(Refusal::Excluded);
        }
        if node.state != State::Ready {
            return Some(Refusal::State(node.state));
        }
        let labelled = |(name, value)| node.labels.get(name) == Some(value);
        if !self.labels.iter().all(labelled) {
            return Some(Refusal::Labels);
        }
        if self.build_must_be_there && !node.builds.contains(&self.build) {
            return Some(Refusal::Build);
        }
        if let Some(saved) = &self.platform {
            let runs = |platform: &Platform| platform.runs(saved);
            if !node.platform.as_ref().is_some_and(runs) {
                return Some(Refusal::Platform);
            }
        }
        let (after, has) = (node.committed.plus(self.needs), node.capacity);
        if after.slots > has.slots {
            return Some(Refusal::Slots);
        }
        if after.memory_mib > has.memory_mib {
            return Some(Refusal::Memory);
        }
        (after.vcpus > has.vcpus).then_some(Refusal::Processors)
    }
}
