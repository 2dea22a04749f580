use super::*;
use proptest::prelude::*;
use std::{cell::Cell, rc::Rc};

/// A VM whose build it knows, and that dies when told to.
#[derive(Debug, Clone)]
struct Fake {
    build: BuildId,
    alive: Rc<Cell<bool>>,
}

impl Fake {
    fn of(build: BuildId) -> Self {
        Self {
            build,
            alive: Rc::new(Cell::new(true)),
        }
    }
}

impl Vm for Fake {
    fn is_alive(&self) -> bool {
        self.alive.get()
    }
}

fn policy(per_build: usize, total: usize) -> Policy<Fake> {
    Policy::new(Limits { per_build, total })
}

/// Makes all that the policy wants; returns what gave way, in order.
fn fill(policy: &mut Policy<Fake>, now: Instant) -> Vec<BuildId> {
    let mut evicted = Vec::new();
    while let Some(next) = policy.next(now) {
        evicted.extend(next.evicted.map(|vm| vm.build));
        let refused = policy.made(next.build, SandboxId::random(), Fake::of(next.build));
        assert!(refused.is_none());
        assert!(evicted.len() < 100, "it comes to rest");
    }
    evicted
}

fn builds<const N: usize>() -> [BuildId; N] {
    std::array::from_fn(|_| BuildId::random())
}

#[test]
fn the_least_recently_used_build_gives_way() {
    let [first, second, third] = builds();
    let mut policy = policy(2, 4);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for (seconds, build) in [(0, first), (1, second)] {
        assert_eq!(policy.reserve(build, at(seconds)), Reserve::None);
        assert_eq!(fill(&mut policy, at(seconds)), []);
    }
    assert_eq!((policy.count(first), policy.count(second)), (2, 2));
    // The third has none: it gets one at once, and the second when the first rests.
    policy.reserve(third, at(2));
    assert_eq!(fill(&mut policy, at(2)), [first]);
    assert_eq!(fill(&mut policy, at(59)), []);
    assert_eq!(fill(&mut policy, at(61)), [first]);
    assert_eq!((policy.count(second), policy.count(third)), (2, 2));
    // The first comes back: the second is the oldest now.
    policy.reserve(first, at(70));
    assert_eq!(fill(&mut policy, at(70)), [second, second]);
    assert_eq!((policy.count(third), policy.count(first)), (2, 2));
}

#[test]
fn promised_vms_do_not_give_way_until_the_promise_lapses() {
    let [old, new] = builds();
    let mut policy = policy(1, 1);
    let start = Instant::now();
    policy.reserve(old, start);
    fill(&mut policy, start);
    assert!(matches!(policy.reserve(old, start), Reserve::Got(_)));
    let later = start + Duration::from_secs(1);
    policy.reserve(new, later);
    assert_eq!(fill(&mut policy, later), []);
    let lapsed = start + RESERVED_FOR + Duration::from_secs(1);
    assert!(policy.expire(lapsed).is_empty());
    assert_eq!(fill(&mut policy, lapsed), [old]);
}

#[test]
fn a_deleted_build_loses_all_its_vms_and_gets_no_more() {
    let [deleted, other] = builds();
    let mut policy = policy(2, 8);
    let now = Instant::now();
    for build in [deleted, other] {
        policy.reserve(build, now);
    }
    fill(&mut policy, now);
    assert!(matches!(policy.reserve(deleted, now), Reserve::Got(_)));
    assert_eq!(policy.exclude(deleted).len(), 2, "the promised one too");
    assert_eq!(policy.reserve(deleted, now), Reserve::None);
    assert!(policy.next(now).is_none());
    assert_eq!(policy.count(other), 2);

    // One that is being made meanwhile is not taken in.
    let mut policy = self::policy(1, 8);
    policy.reserve(deleted, now);
    let next = policy.next(now).expect("is wanted");
    assert_eq!(policy.reserve(deleted, now), Reserve::Soon);
    assert!(policy.exclude(deleted).is_empty());
    let refused = policy.made(next.build, SandboxId::random(), Fake::of(next.build));
    assert!(refused.is_some());
    assert!(policy.is_idle());
}

#[test]
fn a_failure_is_not_repeated_at_once_and_an_unfit_build_never_tried_again() {
    let [failing, unfit] = builds();
    let mut policy = policy(1, 8);
    let now = Instant::now();
    policy.reserve(failing, now);
    assert_eq!(policy.next(now).expect("is wanted").build, failing);
    policy.failed(failing, now);
    assert!(policy.next(now).is_none());
    assert!(policy.next(now + AFTER_FAILURE).is_some());
    policy.failed(failing, now);

    policy.reserve(unfit, now);
    assert_eq!(policy.next(now).expect("is wanted").build, unfit);
    assert!(policy.exclude(unfit).is_empty());
    for minute in 0..15 {
        let later = now + Duration::from_secs(60 * minute);
        assert_eq!(policy.reserve(unfit, later), Reserve::None);
        let next = policy.next(later);
        assert!(next.is_none_or(|next| next.build == failing));
        policy.failed(failing, later);
    }
}

#[test]
fn the_dead_and_the_forgotten_are_given_back() {
    let [build] = builds();
    let mut policy = policy(2, 8);
    let start = Instant::now();
    policy.reserve(build, start);
    fill(&mut policy, start);
    let dead = policy.entries.values().next().expect("is there").vm.clone();
    dead.alive.set(false);
    assert_eq!(policy.expire(start).len(), 1);
    assert!(policy.expire(start + IN_DEMAND_FOR / 2).is_empty());
    assert_eq!(policy.expire(start + IN_DEMAND_FOR).len(), 1);
    assert!(policy.is_idle());
}

#[test]
fn a_pool_that_is_off_or_closed_makes_nothing() {
    let [build] = builds();
    let now = Instant::now();
    for (per_build, total) in [(0, 4), (4, 0)] {
        let mut off = policy(per_build, total);
        assert_eq!(off.reserve(build, now), Reserve::None);
        assert!(off.next(now).is_none() && off.is_idle());
    }
    let mut policy = policy(2, 4);
    policy.reserve(build, now);
    fill(&mut policy, now);
    assert_eq!(policy.close().len(), 2);
    assert_eq!(policy.reserve(build, now), Reserve::None);
    assert!(policy.next(now).is_none());
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Reserve(usize),
    Fill,
    Exclude(usize),
    Wait(u64),
    TakeReserved,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0usize..5).prop_map(Act::Reserve),
        3 => Just(Act::Fill),
        1 => (0usize..5).prop_map(Act::Exclude),
        2 => (0u64..400).prop_map(Act::Wait),
        2 => Just(Act::TakeReserved),
    ]
}

proptest! {
    /// Whatever happens, the limits hold, nothing is lost, and making comes to rest.
    #[test]
    fn limits_hold(
        per_build in 0usize..4, total in 0usize..7,
        acts in proptest::collection::vec(act(), 0..60),
    ) {
        let builds = builds::<5>();
        let mut policy = policy(per_build, total);
        let mut now = Instant::now();
        let mut reserved = Vec::new();
        for act in acts {
            match act {
                Act::Reserve(index) => {
                    if let Reserve::Got(id) = policy.reserve(builds[index], now) {
                        reserved.push((builds[index], id));
                    }
                }
                Act::Fill => drop(fill(&mut policy, now)),
                Act::Exclude(index) => {
                    drop(policy.exclude(builds[index]));
                    prop_assert_eq!(policy.count(builds[index]), 0);
                }
                Act::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    drop(policy.expire(now));
                }
                Act::TakeReserved => {
                    if let Some((build, id)) = reserved.pop()
                        && let Some(vm) = policy.take(&id)
                    {
                        prop_assert_eq!(vm.build, build);
                    }
                }
            }
            prop_assert!(policy.entries.len() <= total);
            for build in builds {
                prop_assert!(policy.count(build) <= per_build);
            }
        }
    }
}
