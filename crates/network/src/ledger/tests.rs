use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Does all work there is, successfully.
fn settle(ledger: &mut Ledger) {
    while let Some(work) = ledger.next_work(true) {
        finish(ledger, work, true);
    }
}

fn finish(ledger: &mut Ledger, work: Work, good: bool) {
    match work {
        Work::Create(index) => ledger.created(index, good),
        Work::Clean(index) => ledger.cleaned(index, good),
        Work::Destroy(index) => ledger.destroyed(index, good),
    }
}

fn take(ledger: &mut Ledger) -> u32 {
    match ledger.acquire() {
        Acquired::Now(index) => index,
        other => panic!("no slot ready: {other:?}"),
    }
}

#[test]
fn the_pool_is_filled_to_its_size_and_refilled() {
    let mut ledger = Ledger::new(10, 3, 0);
    settle(&mut ledger);
    assert_eq!(ledger.status().ready, 3);
    take(&mut ledger);
    settle(&mut ledger);
    let status = ledger.status();
    assert_eq!((status.ready, status.held), (3, 1));
}

#[test]
fn making_ahead_can_be_paused_and_cleaning_goes_on() {
    let mut ledger = Ledger::new(10, 3, 0);
    assert_eq!(ledger.next_work(false), None);
    ledger.adopt(4, false);
    ledger.release(4).unwrap();
    assert_eq!(ledger.next_work(false), Some(Work::Clean(4)));
}

#[test]
fn callers_queue_only_for_slots_that_can_come() {
    let mut ledger = Ledger::new(2, 0, 0);
    assert_eq!(ledger.acquire(), Acquired::Later);
    assert_eq!(ledger.acquire(), Acquired::Later);
    assert_eq!(ledger.acquire(), Acquired::Exhausted);
    ledger.waiter_left();
    assert_eq!(ledger.acquire(), Acquired::Later);
    settle(&mut ledger);
    assert!(ledger.take_for_waiter().is_some() && ledger.take_for_waiter().is_some());
    assert_eq!(ledger.take_for_waiter(), None);
    assert_eq!(ledger.acquire(), Acquired::Exhausted);
}

#[test]
fn a_newcomer_does_not_overtake_the_queue() {
    let mut ledger = Ledger::new(3, 0, 3);
    assert_eq!(ledger.acquire(), Acquired::Later);
    settle(&mut ledger);
    assert_eq!(ledger.acquire(), Acquired::Later);
    assert_eq!(ledger.take_for_waiter(), Some(0));
}

#[test]
fn a_restricted_slot_is_cleaned_only_when_its_policy_is_plain() {
    let mut ledger = Ledger::new(1, 1, 1);
    settle(&mut ledger);
    let index = take(&mut ledger);
    ledger.policy_asked(index, true).unwrap();
    assert_eq!(ledger.release(index), Ok(true), "its policy must be reset");
    assert_eq!(ledger.next_work(true), None);
    ledger.policy_done(index, false);
    assert_eq!(ledger.next_work(true), None, "the reset is still under way");
    ledger.policy_done(index, true);
    assert_eq!(ledger.next_work(true), Some(Work::Clean(index)));
}

#[test]
fn a_slot_whose_policy_cannot_be_reset_is_never_used_again() {
    let mut ledger = Ledger::new(1, 1, 1);
    ledger.adopt(0, true);
    assert_eq!(ledger.release(0), Ok(true));
    ledger.policy_done(0, false);
    assert_eq!(ledger.next_work(true), None);
    assert_eq!(ledger.status().broken, 1);
    assert_eq!(ledger.acquire(), Acquired::Exhausted);
    assert_eq!(ledger.existing(), [0], "but a shutdown still removes it");
}

#[test]
fn surplus_and_spoiled_slots_are_removed_and_their_numbers_return() {
    let mut ledger = Ledger::new(3, 1, 1);
    settle(&mut ledger);
    let first = take(&mut ledger);
    settle(&mut ledger);
    ledger.release(first).unwrap();
    assert_eq!(ledger.next_work(true), Some(Work::Clean(first)));
    ledger.cleaned(first, true);
    assert_eq!(
        ledger.next_work(true),
        Some(Work::Destroy(first)),
        "one is ready already"
    );
    ledger.destroyed(first, true);
    assert!(!ledger.existing().contains(&first));
}

/// What may happen to a pool from outside.
#[derive(Debug, Clone)]
enum Step {
    Acquire,
    LeaveQueue,
    HandBack(usize),
    Release(usize),
    Offline(usize, bool),
    PolicyDone(bool),
    Begin,
    Finish(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0..64_usize;
    let step = prop_oneof![
        4 => Just(Step::Acquire),
        1 => Just(Step::LeaveQueue),
        1 => at.clone().prop_map(Step::HandBack),
        3 => at.clone().prop_map(Step::Release),
        2 => (at.clone(), any::<bool>()).prop_map(|(at, off)| Step::Offline(at, off)),
        3 => prop::bool::weighted(0.9).prop_map(Step::PolicyDone),
        4 => Just(Step::Begin),
        4 => (at, prop::bool::weighted(0.8)).prop_map(|(at, ok)| Step::Finish(at, ok)),
    ];
    prop::collection::vec(step, 0..200)
}

/// What a correct owner of a ledger remembers.
#[derive(Default)]
struct Model {
    held: BTreeSet<u32>,
    queue: usize,
    running: Vec<Work>,
    /// Policy changes in order: slot and whether it goes offline.
    policy: Vec<(u32, bool)>,
    /// Which slots the kernel has offline.
    kernel: BTreeSet<u32>,
}

impl Model {
    fn hand_out(&mut self, index: u32) {
        assert!(self.held.insert(index), "slot {index} was handed out twice");
        assert!(
            !self.kernel.contains(&index),
            "slot {index} was handed out offline"
        );
        let busy = |work: &Work| matches!(work, Work::Create(i) | Work::Clean(i) | Work::Destroy(i) if *i == index);
        assert!(
            !self.running.iter().any(busy),
            "slot {index} was handed out during work"
        );
    }

    fn serve(&mut self, ledger: &mut Ledger) {
        while let Some(index) = ledger.take_for_waiter() {
            self.queue -= 1;
            self.hand_out(index);
        }
        for _ in 0..ledger.hopeless_waiters() {
            self.queue -= 1;
            ledger.waiter_left();
        }
    }

    fn pick(&self, at: usize) -> Option<u32> {
        self.held.iter().copied().nth(at % self.held.len().max(1))
    }

    fn step(&mut self, ledger: &mut Ledger, step: &Step) {
        match *step {
            Step::Acquire => match ledger.acquire() {
                Acquired::Now(index) => self.hand_out(index),
                Acquired::Later => self.queue += 1,
                Acquired::Exhausted => {}
            },
            Step::LeaveQueue if self.queue > 0 => {
                self.queue -= 1;
                ledger.waiter_left();
            }
            Step::HandBack(at) => {
                // Only a slot that nobody has touched comes back this way.
                let untouched = self.pick(at).filter(|index| {
                    !self.kernel.contains(index) && self.policy.iter().all(|(i, _)| i != index)
                });
                if let Some(index) = untouched {
                    self.held.remove(&index);
                    ledger.hand_back(index);
                }
            }
            Step::Release(at) => {
                if let Some(index) = self.pick(at) {
                    self.held.remove(&index);
                    if ledger.release(index).unwrap() {
                        self.policy.push((index, false));
                    }
                    assert_eq!(ledger.release(index), Err(NotHeld));
                }
            }
            Step::Offline(at, offline) => {
                if let Some(index) = self.pick(at) {
                    ledger.policy_asked(index, offline).unwrap();
                    self.policy.push((index, offline));
                }
            }
            Step::PolicyDone(good) if !self.policy.is_empty() => {
                let (index, offline) = self.policy.remove(0);
                if good && offline {
                    self.kernel.insert(index);
                } else if good {
                    self.kernel.remove(&index);
                }
                ledger.policy_done(index, good && !offline);
            }
            Step::Begin => self.running.extend(ledger.next_work(true)),
            Step::Finish(at, good) if !self.running.is_empty() => {
                let work = self.running.remove(at % self.running.len());
                finish(ledger, work, good);
            }
            Step::LeaveQueue | Step::PolicyDone(_) | Step::Finish(..) => {}
        }
        self.serve(ledger);
    }
}

proptest! {
    #[test]
    fn no_slot_is_ever_handed_out_twice_busy_or_restricted(
        steps in steps(), max in 1_u32..8, pool in 0_u32..4, idle in 0_u32..4,
    ) {
        let mut ledger = Ledger::new(max, pool.min(max), idle);
        let mut model = Model::default();
        for step in &steps {
            model.step(&mut ledger, step);
            let status = ledger.status();
            prop_assert_eq!(status.held as usize, model.held.len());
            prop_assert!(status.ready + status.held + status.busy + status.broken <= max);
        }
        // Whoever still queues gets a slot.
        for _ in 0..200 {
            model.step(&mut ledger, &Step::Begin);
            model.step(&mut ledger, &Step::Finish(0, true));
            model.step(&mut ledger, &Step::PolicyDone(true));
        }
        prop_assert_eq!(model.queue, 0, "{:?}", ledger);
    }
}
