//! All nodes that are known, with the builds that each has as an index.

use crate::Node;
use hearth_ids::BuildId;
use std::collections::HashMap;
use uuid::Uuid;

/// The nodes, in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    nodes: Vec<Node>,
    places: HashMap<Uuid, usize>,
    holders: HashMap<BuildId, Vec<usize>>,
}

impl Cluster {
    /// All of them.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this id.
    #[must_use]
    pub fn node(&self, id: Uuid) -> Option<&Node> {
        self.places.get(&id).map(|place| &self.nodes[*place])
    }

    /// Takes in how a node is, in place of what was known of it.
    pub fn put(&mut self, node: Node) {
        let place = match self.places.get(&node.id) {
            Some(place) => {
                let place = *place;
                self.forget_builds(place);
                place
            }
            None => self.nodes.len(),
        };
        for build in &node.builds {
            self.holders.entry(*build).or_default().push(place);
        }
        match self.nodes.get_mut(place) {
            Some(known) => *known = node,
            None => {
                self.places.insert(node.id, place);
                self.nodes.push(node);
            }
        }
    }

    /// Counts a sandbox of this build as starting on a node, until the node is heard of
    /// again. Nothing happens where there is no such node.
    pub fn commit(&mut self, id: Uuid, needs: crate::Amount) {
        if let Some(place) = self.places.get(&id) {
            let node = &mut self.nodes[*place];
            node.committed = node.committed.plus(needs);
        }
    }

    /// Takes back what [`Self::commit`] counted.
    pub fn release(&mut self, id: Uuid, needs: crate::Amount) {
        if let Some(place) = self.places.get(&id) {
            let node = &mut self.nodes[*place];
            node.committed = node.committed.minus(needs);
        }
    }

    /// Where the nodes with a build stand.
    pub(crate) fn holders(&self, build: BuildId) -> &[usize] {
        self.holders.get(&build).map_or(&[], Vec::as_slice)
    }

    fn forget_builds(&mut self, place: usize) {
        for build in &self.nodes[place].builds {
            if let Some(holders) = self.holders.get_mut(build) {
                holders.retain(|holder| *holder != place);
                if holders.is_empty() {
                    self.holders.remove(build);
                }
            }
        }
    }
}

impl FromIterator<Node> for Cluster {
    fn from_iter<I: IntoIterator<Item = Node>>(nodes: I) -> Self {
        let mut cluster = Self::default();
        for node in nodes {
            cluster.put(node);
        }
        cluster
    }
}
