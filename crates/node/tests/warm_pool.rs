//! The warm pool, on real microVMs.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use hearth_ids::{BuildId, SandboxId};
use hearth_node::{Error, Node, SandboxState};
use std::time::Duration;
use support::{Home, in_an_hour, isolated, run, state, until};

/// The id of a warm sandbox, once there is one.
async fn reserved(node: &Node, build: BuildId) -> SandboxId {
    let mut id = None;
    until("warm sandbox", async || {
        id = node.reserve(build).await;
        id.is_some()
    })
    .await;
    id.unwrap()
}

#[test]
fn a_warm_sandbox_becomes_one_like_any_other() {
    isolated("a_warm_sandbox_becomes_one_like_any_other", async || {
        let mut home = Home::new().await;
        home.warm_pool_size = 1;
        let node = home.start().await;
        let id = reserved(&node, home.base).await;
        assert!(node.list().is_empty(), "a warm sandbox is nobody's");
        assert!(matches!(node.status(&id), Err(Error::NotFound(_))));

        let mut spec = home.spec(home.base);
        spec.sandbox_id = id.clone();
        spec.env_vars.insert("MINE".to_owned(), "yes".to_owned());
        let pids = home.vm_processes();
        let made = node.create(spec, in_an_hour()).await.unwrap();
        assert_eq!(pids.len(), 1);
        assert!(home.vm_processes().contains(&pids[0]), "the same VM");
        assert_eq!(state(&node, &id), Some(SandboxState::Running));
        assert_eq!(run(&made, "hostname").await, id.as_str());
        assert_eq!(run(&made, "echo $MINE").await, "yes");

        // The next one is another machine.
        let other = reserved(&node, home.base).await;
        assert_ne!(other, id);
        let mut spec = home.spec(home.base);
        spec.sandbox_id = other;
        let twin = node.create(spec, in_an_hour()).await.unwrap();
        for line in [
            "cat /etc/machine-id",
            "head -c 16 /dev/urandom | base64",
            "python3 -c 'import random; print(random.random())'",
        ] {
            assert_ne!(run(&made, line).await, run(&twin, line).await, "{line}");
        }
        assert_eq!(node.list().len(), 2);

        // What has an owner outlives the daemon; what has none does not.
        reserved(&node, home.base).await;
        node.shutdown(Duration::from_secs(30)).await;
        assert_eq!(home.vm_processes().len(), 2);
        let node = home.start().await;
        assert_eq!(node.list().len(), 2);
        node.delete_all().await;
        node.shutdown(Duration::from_secs(30)).await;
        home.assert_nothing_left();
    });
}

#[test]
fn a_dead_warm_sandbox_is_not_given_out_and_a_full_node_gives_them_up() {
    isolated(
        "a_dead_warm_sandbox_is_not_given_out_and_a_full_node_gives_them_up",
        async || {
            let mut home = Home::new().await;
            home.warm_pool_size = 1;
            let node = home.start().await;
            let promised = reserved(&node, home.base).await;
            for pid in home.vm_processes() {
                hearth_machine::processes::end(pid).unwrap();
            }
            // The promise cannot be kept, the create can: it starts one from nothing.
            let mut spec = home.spec(home.base);
            spec.sandbox_id = promised.clone();
            let made = node.create(spec, in_an_hour()).await.unwrap();
            assert_eq!(made.spec.sandbox_id, promised);
            assert_eq!(run(&made, "echo alive").await, "alive");
            node.delete_all().await;

            // Up to the limit, warm sandboxes or not.
            let mut made = 0;
            loop {
                match node.create(home.spec(home.base), in_an_hour()).await {
                    Ok(_) => made += 1,
                    Err(Error::Capacity(_)) => break,
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert_eq!(made, 8, "the limit of the tests' nodes");
            node.delete_all().await;
            node.shutdown(Duration::from_secs(30)).await;
            home.assert_nothing_left();
        },
    );
}

#[test]
fn a_deleted_builds_warm_sandboxes_end_at_once_and_unfit_builds_get_none() {
    isolated(
        "a_deleted_builds_warm_sandboxes_end_at_once_and_unfit_builds_get_none",
        async || {
            let mut home = Home::new().await;
            home.own_base();
            home.warm_pool_size = 1;
            let node = home.start().await;
            // A snapshot can have none: it is asked for, and stays without.
            let spec = home.spec(home.base);
            let source = spec.sandbox_id.clone();
            node.create(spec, in_an_hour()).await.unwrap();
            let snapshot = BuildId::random();
            node.checkpoint(&source, snapshot).await.unwrap();
            assert_eq!(node.reserve(snapshot).await, None);
            node.delete(&source).await.unwrap();

            let promised = reserved(&node, home.base).await;
            assert_eq!(home.vm_processes().len(), 1, "the template's alone");
            node.delete_build(home.base).await.unwrap();
            assert!(home.vm_processes().is_empty(), "the promised one too");
            assert_eq!(node.reserve(home.base).await, None);
            let mut spec = home.spec(home.base);
            spec.sandbox_id = promised;
            let refused = node.create(spec, in_an_hour()).await;
            assert!(
                matches!(refused, Err(Error::BuildNotFound { .. })),
                "{refused:?}"
            );
            node.shutdown(Duration::from_secs(30)).await;
            home.assert_nothing_left();
        },
    );
}
