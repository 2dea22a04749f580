//! Nodes. What is over is made by a lease of nothing, so that no test waits.

use super::records::Shared;
use crate::{NodeMode, NodeRecord, NodeRegistration, NodeRemoval, NodeRun, NodeState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3600);

fn registration(id: Uuid, name: &str) -> NodeRegistration {
    NodeRegistration {
        id,
        instance: Uuid::new_v4(),
        name: name.to_owned(),
        address: format!("{name}:5008"),
        labels: BTreeMap::from([("zone".to_owned(), "a=\"b\"".to_owned())]),
        version: "1.2.3".to_owned(),
        revision: "abc".to_owned(),
    }
}

async fn register(store: &Shared, id: Uuid, name: &str) -> NodeRecord {
    let registered = store.node_register(registration(id, name), HOUR).await;
    registered.expect("writes")
}

fn run(node: &NodeRecord) -> NodeRun {
    NodeRun {
        id: node.id,
        generation: node.generation,
    }
}

async fn beat(store: &Shared, run: NodeRun, lease: Duration) -> Option<NodeRecord> {
    let beat = store.node_heartbeat(run, "{\"a\":1}", lease).await;
    beat.expect("writes")
}

/// A node connects, reports, is lost and comes back; what an operator wants of it stays.
pub async fn a_node_is_heard_until_its_lease_is_over(store: Shared) {
    let new = registration(Uuid::new_v4(), "one");
    let node = store
        .node_register(new.clone(), HOUR)
        .await
        .expect("writes");
    assert_eq!((node.id, node.instance), (new.id, new.instance));
    assert_eq!(
        (node.name.as_str(), node.address.as_str()),
        ("one", "one:5008")
    );
    assert_eq!(node.labels, new.labels);
    assert_eq!(
        (node.version.as_str(), node.revision.as_str()),
        ("1.2.3", "abc")
    );
    assert_eq!((node.generation, node.report.as_deref()), (1, None));
    assert_eq!(node.state(), NodeState::Connecting);

    let heard = beat(&store, run(&node), HOUR).await.expect("is heard");
    assert_eq!(heard.state(), NodeState::Ready);
    assert_eq!(heard.report.as_deref(), Some("{\"a\":1}"));
    assert!(heard.heartbeat_at.is_some() && heard.changed_at >= node.changed_at);
    assert_eq!(heard.registered_at, node.registered_at);

    let drained = store.node_set_mode(node.id, NodeMode::Draining).await;
    let drained = drained.expect("writes").expect("is there");
    assert_eq!(drained.state(), NodeState::Draining);
    let again = store.node_set_mode(node.id, NodeMode::Draining).await;
    let again = again.expect("writes").expect("is there");
    assert_eq!(again.changed_at, drained.changed_at, "nothing has changed");

    let lost = beat(&store, run(&node), Duration::ZERO)
        .await
        .expect("is heard");
    assert_eq!(lost.state(), NodeState::Unhealthy);
    assert_eq!(lost.state_since(), lost.lease_until);
    let read = store.node(node.id).await.expect("reads").expect("is there");
    assert_eq!(read, lost);
    let back = beat(&store, run(&node), HOUR).await.expect("is heard");
    assert_eq!(back.state(), NodeState::Draining, "as the operator wanted");
    assert!(back.changed_at >= drained.changed_at);

    store.node_leave(run(&node)).await.expect("writes");
    let left = store.node(node.id).await.expect("reads").expect("is there");
    assert_eq!(left.state(), NodeState::Unhealthy);
    let unknown = Uuid::new_v4();
    assert_eq!(store.node(unknown).await.expect("reads"), None);
    let mode = store.node_set_mode(unknown, NodeMode::Ready).await;
    assert_eq!(mode.expect("writes"), None);
}

/// Of two runs of a node the later is heard, and the earlier one is told so.
pub async fn a_superseded_run_of_a_node_is_refused(store: Shared) {
    let id = Uuid::new_v4();
    let first = register(&store, id, "one").await;
    store
        .node_set_mode(id, NodeMode::Standby)
        .await
        .expect("writes");
    let second = register(&store, id, "renamed").await;
    assert_eq!((second.generation, second.name.as_str()), (2, "renamed"));
    assert_ne!(second.instance, first.instance);
    assert_eq!(second.mode, NodeMode::Standby, "as the operator wanted");
    assert_eq!(beat(&store, run(&first), HOUR).await, None);
    store.node_leave(run(&first)).await.expect("writes");
    let heard = beat(&store, run(&second), HOUR).await.expect("is heard");
    assert_eq!(heard.state(), NodeState::Standby);
    // Of many that register at the same time, each is a generation.
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { register(&store, id, "one").await.generation })
        })
        .collect();
    let mut generations = Vec::new();
    for task in tasks {
        generations.push(task.await.expect("no panic"));
    }
    generations.sort_unstable();
    assert_eq!(generations, (3..=10).collect::<Vec<u64>>());
}

/// A node that is there cannot be removed; one that is gone can, and is not heard any more.
pub async fn nodes_are_listed_and_removed(store: Shared) {
    let (b, a) = (Uuid::new_v4(), Uuid::new_v4());
    let (node_b, node_a) = (
        register(&store, b, "b").await,
        register(&store, a, "a").await,
    );
    let listed = store.node_list().await.expect("reads");
    let ids: Vec<Uuid> = listed.iter().map(|node| node.id).collect();
    assert_eq!(ids, [a, b]);
    assert_eq!(
        store.node_remove(a).await.expect("writes"),
        NodeRemoval::Alive
    );
    store.node_leave(run(&node_a)).await.expect("writes");
    assert_eq!(
        store.node_remove(a).await.expect("writes"),
        NodeRemoval::Removed
    );
    assert_eq!(
        store.node_remove(a).await.expect("writes"),
        NodeRemoval::Missing
    );
    assert_eq!(beat(&store, run(&node_a), HOUR).await, None);
    let listed = store.node_list().await.expect("reads");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].generation, node_b.generation);
}

/// All that use a store agree on its cluster's id.
pub async fn a_cluster_has_one_id(store: Shared) {
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.cluster_id(Uuid::new_v4()).await })
        })
        .collect();
    let mut ids = std::collections::HashSet::new();
    for task in tasks {
        ids.insert(task.await.expect("no panic").expect("writes"));
    }
    assert_eq!(ids.len(), 1);
    let later = store.cluster_id(Uuid::new_v4()).await.expect("writes");
    assert!(ids.contains(&later));
}
