//! What holds of every choice, whatever the nodes.

use hearth_ids::BuildId;
use hearth_scheduler::{
    Amount, Cluster, MOST_CHOICES, Node, Platform, Refusal, Request, State, rank, score,
};
use proptest::prelude::*;
use uuid::Uuid;

fn build(number: u8) -> BuildId {
    BuildId::from_uuid(Uuid::from_u128(u128::from(number)))
}

fn platform(number: u8) -> Platform {
    let features = ["avx2", "avx512f", "sha_ni"];
    Platform {
        engine: "qemu".to_owned(),
        series: if number & 1 == 0 { "7.2" } else { "10.0" }.to_owned(),
        accelerator: "kvm".to_owned(),
        cpu_model: "host".to_owned(),
        cpu_features: (0..3)
            .filter(|bit| number >> (bit + 1) & 1 == 1)
            .map(|bit| features[bit].to_owned())
            .collect(),
    }
}

fn amounts(memory: u64, vcpus: u64, slots: u64) -> impl Strategy<Value = Amount> {
    (0..=memory, 0..=vcpus, 0..=slots).prop_map(|(memory_mib, vcpus, slots)| Amount {
        memory_mib,
        vcpus,
        slots,
    })
}

fn node() -> impl Strategy<Value = Node> {
    let states = prop::sample::select(vec![
        State::Ready,
        State::Ready,
        State::Ready,
        State::Draining,
        State::Connecting,
        State::Unhealthy,
        State::Standby,
    ]);
    let zones = prop::option::of(prop::sample::select(vec!["a", "b"]));
    let builds = prop::collection::hash_set(0u8..4, 0..4);
    let warm = prop::collection::hash_map(0u8..4, 0u32..3, 0..3);
    let platforms = prop::option::of(0u8..16);
    let room = (amounts(8192, 16, 8), amounts(8192, 16, 8), 0u32..40);
    (states, zones, builds, warm, platforms, room).prop_map(
        |(state, zone, builds, warm, on, (capacity, committed, starting))| Node {
            id: Uuid::nil(),
            state,
            labels: zone
                .map(|zone| ("zone".to_owned(), zone.to_owned()))
                .into_iter()
                .collect(),
            capacity,
            committed,
            starting,
            builds: builds.into_iter().map(build).collect(),
            warm: warm.into_iter().map(|(of, n)| (build(of), n)).collect(),
            platform: on.map(platform),
        },
    )
}

fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    prop::collection::vec(node(), 0..40).prop_map(|mut nodes| {
        for (number, node) in nodes.iter_mut().enumerate() {
            node.id = id(number);
        }
        nodes
    })
}

fn request() -> impl Strategy<Value = Request> {
    let zones = prop::option::of(prop::sample::select(vec!["a", "b"]));
    let named = prop::option::weighted(0.2, 0usize..45);
    let excluded = prop::collection::hash_set((0usize..40).prop_map(id), 0..5);
    let what = (0u8..4, amounts(2048, 4, 1), any::<bool>());
    (
        what,
        zones,
        named,
        prop::option::weighted(0.3, 0u8..16),
        excluded,
    )
        .prop_map(|((of, needs, must), zone, named, on, excluded)| Request {
            build: build(of),
            needs,
            labels: zone
                .map(|zone| ("zone".to_owned(), zone.to_owned()))
                .into_iter()
                .collect(),
            node: named.map(id),
            platform: on.map(platform),
            build_must_be_there: must,
            excluded,
        })
}

proptest! {
    /// Somebody is chosen exactly where somebody can take it, and everybody who is chosen
    /// can.
    #[test]
    fn who_is_chosen_can_take_it(nodes in nodes(), request in request(), seed: u64) {
        let able = nodes.iter().filter(|node| request.refused_by(node).is_none()).count();
        let cluster: Cluster = nodes.into_iter().collect();
        match rank(&cluster, &request, seed) {
            Ok(choices) => {
                prop_assert!(!choices.is_empty() && choices.len() <= MOST_CHOICES.min(able));
                let mut seen = std::collections::HashSet::new();
                for choice in &choices {
                    prop_assert!(seen.insert(choice.node), "named twice");
                    let node = cluster.node(choice.node).expect("is known");
                    prop_assert_eq!(request.refused_by(node), None);
                    prop_assert_eq!(choice.score, score(node, &request));
                    prop_assert_eq!(node.state, State::Ready);
                    let after = node.committed.plus(request.needs);
                    prop_assert!(after.memory_mib <= node.capacity.memory_mib);
                    prop_assert!(after.vcpus <= node.capacity.vcpus);
                    prop_assert!(after.slots <= node.capacity.slots);
                    prop_assert!(!request.excluded.contains(&node.id));
                }
                prop_assert!(choices.is_sorted_by_key(|choice| -choice.score));
            }
            Err(unplaced) => {
                prop_assert_eq!(able, 0);
                let asked: usize = unplaced.reasons.values().sum();
                let known = request.node.is_none_or(|wanted| cluster.node(wanted).is_some());
                prop_assert_eq!(unplaced.named_is_missing, !known);
                match request.node {
                    None => prop_assert_eq!(asked, cluster.nodes().len()),
                    Some(_) => prop_assert_eq!(asked, usize::from(known)),
                }
            }
        }
    }

    /// The same seed over the same nodes chooses the same, in whichever order they were
    /// heard of anew.
    #[test]
    fn choices_repeat(nodes in nodes(), request in request(), seed: u64) {
        let once: Cluster = nodes.iter().cloned().collect();
        let mut again = once.clone();
        for node in nodes.into_iter().rev() {
            again.put(node);
        }
        prop_assert_eq!(rank(&once, &request, seed).is_ok(), rank(&again, &request, seed).is_ok());
        prop_assert_eq!(rank(&once, &request, seed), rank(&once.clone(), &request, seed));
    }

    /// More room, the build, a warm VM and fewer starts never make a node worse.
    #[test]
    fn better_is_never_worse(node in node(), request in request(), more in amounts(4096, 8, 4)) {
        let before = score(&node, &request);
        let mut emptier = node.clone();
        emptier.committed = emptier.committed.minus(more);
        prop_assert!(score(&emptier, &request) >= before);
        let mut with_build = node.clone();
        with_build.builds.insert(request.build);
        prop_assert!(score(&with_build, &request) >= before);
        let mut warm = with_build.clone();
        warm.warm.insert(request.build, 1);
        prop_assert!(score(&warm, &request) >= score(&with_build, &request));
        let mut busy = node.clone();
        busy.starting += 5;
        prop_assert!(score(&busy, &request) <= before);
    }
}

const ROOM: Amount = Amount {
    memory_mib: 10_000,
    vcpus: 100,
    slots: 100,
};

/// As the table of the score says.
#[test]
fn the_build_outweighs_three_tenths_of_a_node() {
    let request = Request::new(build(1), 0, 0);
    let mut here = Node::empty(id(0), ROOM);
    here.builds.insert(build(1));
    let elsewhere = Node::empty(id(1), ROOM);
    for (used, first) in [(0, id(0)), (2_900, id(0)), (3_100, id(1))] {
        here.committed.memory_mib = used;
        let cluster: Cluster = [here.clone(), elsewhere.clone()].into_iter().collect();
        let choices = rank(&cluster, &request, 7).expect("has room");
        assert_eq!(choices[0].node, first, "{used} MiB of 10,000 are used");
        assert_eq!(choices.len(), 2, "the other one is asked next");
    }
}

#[test]
fn refusals_are_sentences() {
    let request = Request::new(build(1), 512, 1);
    let unplaced = |nodes: Vec<Node>, request: &Request| {
        let cluster: Cluster = nodes.into_iter().collect();
        rank(&cluster, request, 1).expect_err("nobody can")
    };
    assert_eq!(
        unplaced(Vec::new(), &request).to_string(),
        "there is no node"
    );
    let draining = Node {
        state: State::Draining,
        ..Node::empty(id(0), ROOM)
    };
    let alone = unplaced(vec![draining.clone()], &request);
    assert!(alone.only(Refusal::State(State::Draining)));
    assert_eq!(
        alone.to_string(),
        "1 node is draining: it takes no new sandboxes"
    );
    let full = |number| Node {
        committed: ROOM,
        ..Node::empty(id(number), ROOM)
    };
    let several = unplaced(vec![draining.clone(), full(1), full(2)], &request);
    assert!(!several.only(Refusal::State(State::Draining)));
    assert_eq!(
        several.to_string(),
        "1 node is draining: it takes no new sandboxes; 2 nodes are without a free slot"
    );
    let mut named = request.clone();
    named.node = Some(id(0));
    let named_draining = unplaced(vec![draining.clone(), Node::empty(id(1), ROOM)], &named);
    assert!(named_draining.only(Refusal::State(State::Draining)));
    named.node = Some(id(9));
    assert_eq!(
        unplaced(vec![draining], &named).to_string(),
        "there is no such node as was asked for"
    );
    let mut refused = request;
    refused.excluded.insert(id(1));
    let after = unplaced(vec![Node::empty(id(1), ROOM)], &refused);
    assert_eq!(after.to_string(), "1 node refused it");
}
