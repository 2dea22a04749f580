//! Who may be a node. What is over is made by a life of nothing, so that no test waits.

use super::records::Shared;
use crate::{NodeIdentity, NodeRegistration, TokenUse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3600);

async fn token(store: &Shared, digest: &str, lifetime: Duration) {
    let made = store.node_token_create(digest, lifetime).await;
    made.expect("writes");
}

async fn used(store: &Shared, digest: &str, node: Uuid, key: &str) -> TokenUse {
    let used = store.node_token_use(digest, node, key).await;
    used.expect("writes")
}

async fn identity(store: &Shared, node: Uuid) -> Option<NodeIdentity> {
    store.node_identity(node).await.expect("reads")
}

async fn register(store: &Shared, id: Uuid, lease: Duration) {
    let registration = NodeRegistration {
        id,
        instance: Uuid::new_v4(),
        name: "one".to_owned(),
        address: "one:5008".to_owned(),
        labels: BTreeMap::new(),
        version: "1.2.3".to_owned(),
        revision: String::new(),
    };
    let registered = store.node_register(registration, lease).await;
    registered.expect("writes");
}

/// A token is good once and for a time; a revoked node comes back by another one alone.
pub async fn a_token_admits_one_node_once(store: Shared) {
    let (node, other) = (Uuid::new_v4(), Uuid::new_v4());
    assert_eq!(used(&store, "unknown", node, "k").await, TokenUse::Unknown);
    assert_eq!(identity(&store, node).await, None);
    assert!(!store.node_identity_revoke(node).await.expect("writes"));

    token(&store, "short", Duration::ZERO).await;
    let late = used(&store, "short", node, "k").await;
    assert!(matches!(late, TokenUse::Expired(_)), "{late:?}");
    assert_eq!(identity(&store, node).await, None, "nothing has changed");

    token(&store, "first", HOUR).await;
    let TokenUse::Admitted(joined) = used(&store, "first", node, "k").await else {
        panic!("a good token");
    };
    assert_eq!((joined.node, joined.key.as_str()), (node, "k"));
    assert_eq!(joined.revoked_at, None);
    assert_eq!(identity(&store, node).await, Some(joined.clone()));
    // The answer was lost: the same once more.
    let again = used(&store, "first", node, "k").await;
    assert_eq!(again, TokenUse::Admitted(joined));
    assert_eq!(used(&store, "first", node, "l").await, TokenUse::Used);
    assert_eq!(used(&store, "first", other, "k").await, TokenUse::Used);

    assert!(store.node_identity_revoke(node).await.expect("writes"));
    let revoked = identity(&store, node).await.expect("is kept");
    assert!(revoked.revoked_at.is_some());
    assert!(store.node_identity_revoke(node).await.expect("writes"));
    let twice = identity(&store, node).await.expect("is kept");
    assert_eq!(
        twice.revoked_at, revoked.revoked_at,
        "the first time counts"
    );
    assert_eq!(
        used(&store, "first", node, "k").await,
        TokenUse::Used,
        "the token of before does not undo it"
    );

    token(&store, "second", HOUR).await;
    let back = used(&store, "second", node, "m").await;
    assert!(matches!(back, TokenUse::Admitted(_)), "{back:?}");
    let back = identity(&store, node).await.expect("is there");
    assert_eq!((back.key.as_str(), back.revoked_at), ("m", None));
}

/// A second machine does not become a node that is heard of; it may take a silent one's place.
pub async fn a_node_that_is_there_keeps_its_identity(store: Shared) {
    let node = Uuid::new_v4();
    for name in ["a", "b", "c", "d"] {
        token(&store, name, HOUR).await;
    }
    let joined = used(&store, "a", node, "k").await;
    assert!(matches!(joined, TokenUse::Admitted(_)), "{joined:?}");
    register(&store, node, HOUR).await;
    assert_eq!(used(&store, "b", node, "clone").await, TokenUse::Taken);
    assert_eq!(identity(&store, node).await.expect("is there").key, "k");
    // With its own key it may come again.
    let again = used(&store, "b", node, "k").await;
    assert!(matches!(again, TokenUse::Admitted(_)), "{again:?}");

    register(&store, node, Duration::ZERO).await;
    let replaced = used(&store, "c", node, "new").await;
    assert!(matches!(replaced, TokenUse::Admitted(_)), "{replaced:?}");
    assert_eq!(identity(&store, node).await.expect("is there").key, "new");

    // A node that has never joined, as that of the control plane's own process.
    let own = Uuid::new_v4();
    register(&store, own, HOUR).await;
    assert_eq!(used(&store, "d", own, "k").await, TokenUse::Taken);

    // Who is refused is heard of no more.
    register(&store, node, HOUR).await;
    assert!(store.node_identity_revoke(node).await.expect("writes"));
    let revoked = store.node(node).await.expect("reads").expect("is there");
    assert!(!revoked.alive);
    let left = used(&store, "d", node, "other").await;
    assert!(matches!(left, TokenUse::Admitted(_)), "{left:?}");
}

/// A token is used once, however many try at the same time.
pub async fn of_many_who_use_a_token_one_gets_in(store: Shared) {
    token(&store, "one", HOUR).await;
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let key = format!("key {number}");
                used(&store, "one", Uuid::new_v4(), &key).await
            })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        match task.await.expect("no panic") {
            TokenUse::Admitted(_) => admitted += 1,
            other => assert_eq!(other, TokenUse::Used),
        }
    }
    assert_eq!(admitted, 1);
}
