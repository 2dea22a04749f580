//! The choice itself.

use crate::sample::{mix, walk};
use crate::{Cluster, Node, Refusal, Request, Unplaced};
use std::collections::HashSet;
use uuid::Uuid;

/// How many nodes are looked at closely, of those with the build and of all.
pub const SAMPLE: usize = 8;
/// How many nodes a ranking names at most: where the first refuses, the next is asked.
pub const MOST_CHOICES: usize = 8;

const WHOLE_NODE: u64 = 1_000;
const BUILD_THERE: i64 = 300;
const WARM_VM: i64 = 200;
const EACH_STARTING: i64 = 10;
const MOST_FOR_STARTING: i64 = 200;

/// A node that can take the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub node: Uuid,
    /// Its [`score`].
    pub score: i64,
}

/// The nodes to ask for a sandbox, the best first, at most [`MOST_CHOICES`]. Seeds of
/// processes that choose at the same time should differ; the same seed over the same nodes
/// chooses the same.
///
/// # Errors
/// [`Unplaced`] where no node can take it, with the reason of each.
pub fn rank(cluster: &Cluster, request: &Request, seed: u64) -> Result<Vec<Choice>, Unplaced> {
    let nodes = cluster.nodes();
    if let Some(wanted) = request.node {
        return named(cluster, request, wanted);
    }
    let mut places = HashSet::with_capacity(2 * SAMPLE);
    let takes = |place: &usize| request.refused_by(&nodes[*place]).is_none();
    let holders = cluster.holders(request.build);
    let with_build = walk(holders.len(), seed).map(|place| holders[place]);
    places.extend(with_build.filter(takes).take(SAMPLE));
    if !request.build_must_be_there {
        let any = walk(nodes.len(), mix(seed));
        places.extend(any.filter(takes).take(SAMPLE));
    }
    let mut choices: Vec<Choice> = places
        .into_iter()
        .map(|place| Choice {
            node: nodes[place].id,
            score: score(&nodes[place], request),
        })
        .collect();
    if choices.is_empty() {
        return Err(reasons(nodes, request));
    }
    // Equals come in an order that the seed decides and no table of a process does.
    let order = |choice: &Choice| {
        let bits = choice.node.as_u64_pair();
        (-choice.score, mix(seed ^ bits.0 ^ bits.1), choice.node)
    };
    choices.sort_unstable_by_key(order);
    choices.truncate(MOST_CHOICES);
    Ok(choices)
}

fn named(cluster: &Cluster, request: &Request, wanted: Uuid) -> Result<Vec<Choice>, Unplaced> {
    let Some(node) = cluster.node(wanted) else {
        return Err(Unplaced {
            named_is_missing: true,
            ..Unplaced::default()
        });
    };
    match request.refused_by(node) {
        None => Ok(vec![Choice {
            node: wanted,
            score: score(node, request),
        }]),
        Some(refusal) => Err(counted([refusal])),
    }
}

fn reasons(nodes: &[Node], request: &Request) -> Unplaced {
    counted(nodes.iter().filter_map(|node| request.refused_by(node)))
}

fn counted(refusals: impl IntoIterator<Item = Refusal>) -> Unplaced {
    let mut unplaced = Unplaced::default();
    for refusal in refusals {
        *unplaced.reasons.entry(refusal).or_default() += 1;
    }
    unplaced
}

/// How well a node suits a request that it can take, in points: see the [crate](crate).
#[must_use]
pub fn score(node: &Node, request: &Request) -> i64 {
    let (free, has, needs) = (node.free(), node.capacity, request.needs);
    let shares = [
        share(free.memory_mib, needs.memory_mib, has.memory_mib),
        share(free.vcpus, needs.vcpus, has.vcpus),
        share(free.slots, needs.slots, has.slots),
    ];
    let mut points = shares.into_iter().min().unwrap_or(0);
    if node.builds.contains(&request.build) {
        points += BUILD_THERE;
    }
    if node
        .warm
        .get(&request.build)
        .is_some_and(|count| *count > 0)
    {
        points += WARM_VM;
    }
    let starting = i64::from(node.starting).saturating_mul(EACH_STARTING);
    points - starting.min(MOST_FOR_STARTING)
}

/// What is left of a resource afterwards, in thousandths of all of it.
fn share(free: u64, needs: u64, has: u64) -> i64 {
    let left = u128::from(free.saturating_sub(needs));
    let thousandths = left * u128::from(WHOLE_NODE) / u128::from(has.max(1));
    i64::try_from(thousandths).unwrap_or(0)
}
