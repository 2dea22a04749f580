//! A cluster of 1,000 nodes and 100,000 sandboxes, in memory: nobody is promised what is
//! not there, the load spreads, and nobody is turned away while there is room.

use hearth_ids::BuildId;
use hearth_scheduler::{Amount, Cluster, Node, Request, State, rank};
use uuid::Uuid;

const NODES: usize = 1_000;
const REQUESTS: u64 = 100_000;

/// Sequence of numbers that a seed decides (`xorshift64*`).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128 + 1)
}

fn build(number: u64) -> BuildId {
    BuildId::from_uuid(Uuid::from_u128(u128::from(number)))
}

/// Machines of two sizes; 40 templates, each on every tenth node.
fn nodes() -> Vec<Node> {
    let node = |number: usize| {
        let size = if number.is_multiple_of(4) { 2 } else { 1 };
        let capacity = Amount {
            memory_mib: 131_072 * size,
            vcpus: 320 * size,
            slots: 128 * size,
        };
        let mut node = Node::empty(id(number), capacity);
        node.builds = (0..40)
            .filter(|of| (number + of).is_multiple_of(10))
            .map(|of| build(of as u64))
            .collect();
        node
    };
    (0..NODES).map(node).collect()
}

fn request(numbers: &mut Numbers) -> Request {
    let memory_mib = [512, 1024, 1024, 2048][usize::try_from(numbers.below(4)).unwrap_or(0)];
    // Few templates are asked for often, as it is.
    let of = numbers.below(40).min(numbers.below(40));
    Request::new(build(of), memory_mib, 1 + numbers.below(3))
}

/// The fullest of a node's resources, in thousandths.
fn fullness(node: &Node) -> u64 {
    let (used, has) = (node.committed, node.capacity);
    [
        used.memory_mib * 1000 / has.memory_mib,
        used.vcpus * 1000 / has.vcpus,
        used.slots * 1000 / has.slots,
    ]
    .into_iter()
    .max()
    .unwrap_or(0)
}

fn within_capacity(nodes: &[Node]) -> bool {
    nodes.iter().all(|node| {
        let (used, has) = (node.committed, node.capacity);
        used.memory_mib <= has.memory_mib && used.vcpus <= has.vcpus && used.slots <= has.slots
    })
}

#[test]
fn a_hundred_thousand_sandboxes_spread_over_a_thousand_nodes() {
    let mut cluster: Cluster = nodes().into_iter().collect();
    let mut numbers = Numbers(42);
    let mut with_build = 0;
    for seed in 0..REQUESTS {
        let request = request(&mut numbers);
        let best = rank(&cluster, &request, seed).expect("there is room")[0];
        let node = cluster.node(best.node).expect("is known");
        with_build += u64::from(node.builds.contains(&request.build));
        cluster.commit(best.node, request.needs);
    }
    assert!(within_capacity(cluster.nodes()));
    let placed: u64 = cluster.nodes().iter().map(|n| n.committed.slots).sum();
    assert_eq!(placed, REQUESTS);
    let mut full: Vec<u64> = cluster.nodes().iter().map(fullness).collect();
    full.sort_unstable();
    let mean = full.iter().sum::<u64>() / full.len() as u64;
    let (least, most) = (full[0], full[NODES - 1]);
    println!("fullness in ‰: {least} to {most}, mean {mean}; {with_build} found their build");
    // The build draws sandboxes to a tenth of the nodes, by three tenths of a node at most.
    assert!(most - least <= 400, "{least} to {most}, mean {mean}");
    assert!(most <= 1000 && mean > 400, "mean {mean}");
    assert!(with_build > REQUESTS / 2, "{with_build} found their build");
}

/// Sandboxes end, and nodes drain and come back: what is full stays full, and nobody is
/// turned away while a node has room.
#[test]
fn a_full_cluster_refuses_only_what_has_no_room() {
    let small = nodes().into_iter().take(100);
    let mut cluster: Cluster = small.collect();
    let mut numbers = Numbers(7);
    let mut running: Vec<(Uuid, Amount)> = Vec::new();
    let (mut placed, mut refused) = (0, 0);
    for seed in 0..60_000_u64 {
        if seed.is_multiple_of(5_000) {
            let place = usize::try_from(seed / 5_000).unwrap_or(0);
            let mut node = cluster.nodes()[place].clone();
            node.state = match node.state {
                State::Ready => State::Draining,
                _ => State::Ready,
            };
            cluster.put(node);
        }
        if numbers.below(5) == 0 && !running.is_empty() {
            let which = usize::try_from(numbers.below(running.len() as u64)).unwrap_or(0);
            let (node, needs) = running.swap_remove(which);
            cluster.release(node, needs);
        }
        let request = request(&mut numbers);
        match rank(&cluster, &request, seed) {
            Ok(choices) => {
                cluster.commit(choices[0].node, request.needs);
                running.push((choices[0].node, request.needs));
                placed += 1;
            }
            Err(unplaced) => {
                let mut all = cluster.nodes().iter();
                assert!(
                    all.all(|node| request.refused_by(node).is_some()),
                    "{unplaced}"
                );
                refused += 1;
            }
        }
    }
    println!("{placed} placed, {refused} refused");
    assert!(within_capacity(cluster.nodes()));
    assert!(placed > 20_000 && refused > 1_000, "{placed}, {refused}");
    let held: u64 = cluster.nodes().iter().map(|n| n.committed.slots).sum();
    assert_eq!(held, running.len() as u64);
}

/// Four control planes choose by what they heard 500 requests ago, and each counts only its
/// own since. The nodes have the last word: nothing is over-committed, and a refusal ends
/// at another node.
#[test]
fn choices_by_old_news_are_mended_by_the_nodes() {
    let mut truth: Cluster = nodes().into_iter().collect();
    let mut views = vec![truth.clone(); 4];
    let mut numbers = Numbers(99);
    let (mut second_tries, mut lost) = (0_u64, 0_u64);
    for seed in 0..REQUESTS {
        let turn = usize::try_from(seed % 4).unwrap_or(0);
        if seed.is_multiple_of(500) {
            views = vec![truth.clone(); 4];
        }
        let mut request = request(&mut numbers);
        let placed = loop {
            let Ok(choices) = rank(&views[turn], &request, seed) else {
                break None;
            };
            let admits = |choice: &&hearth_scheduler::Choice| {
                let node = truth.node(choice.node).expect("is known");
                request.refused_by(node).is_none()
            };
            if let Some(choice) = choices.iter().find(admits) {
                break Some(choice.node);
            }
            second_tries += 1;
            request.excluded.extend(choices.iter().map(|c| c.node));
        };
        match placed {
            Some(node) => {
                truth.commit(node, request.needs);
                views[turn].commit(node, request.needs);
            }
            None => lost += 1,
        }
    }
    assert!(within_capacity(truth.nodes()));
    assert_eq!(lost, 0, "there is room for all");
    let mut full: Vec<u64> = truth.nodes().iter().map(fullness).collect();
    full.sort_unstable();
    println!(
        "fullness in ‰: {} to {}; {second_tries} second tries",
        full[0],
        full[NODES - 1]
    );
    assert!(full[NODES - 1] - full[0] <= 450, "{full:?}");
}
