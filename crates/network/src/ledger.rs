//! Which slot is in which state. Pure policy: no kernel, clock or lock.
//!
//! ```text
//!            ┌────────── created ──────────┐      acquire
//!  Absent ──▶ Creating                     ▼  ┌────────────▶ Held
//!    ▲            │ failed               Ready│               │ release
//!    │            ▼                        ▲  └── (handed back)▼
//!    ├────── Destroying ◀── surplus, ──────┴── Cleaning ◀── Settling
//!    │            │         spoiled            (flows,       (until no policy
//!    └── gone ────┤                             TAP)          change is under way)
//!                 ▼ failed
//!              Broken (until the next start)
//! ```
//!
//! An index is in exactly one state, so it cannot be handed out twice. A slot that
//! was held always passes `Cleaning` before it is ready again.

use std::collections::{BTreeSet, VecDeque};

use crate::pool::PoolStatus;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Creating,
    Ready,
    Held(Policy),
    /// Released; waits for its policy to be plain again.
    Settling(Policy),
    Cleaning,
    Destroying,
    Broken,
}

/// What is known of a held slot's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Policy {
    /// The kernel may have a policy for it that is not plain.
    restricted: bool,
    /// Changes that were asked for and are not confirmed.
    pending: u32,
}

/// Work on one slot that somebody must do and report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Make it; report with [`Ledger::created`].
    Create(u32),
    /// Clean it; report with [`Ledger::cleaned`].
    Clean(u32),
    /// Remove it; report with [`Ledger::destroyed`].
    Destroy(u32),
}

/// The answer to a wish for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquired {
    /// This one.
    Now(u32),
    /// One will become ready; the caller queues.
    Later,
    /// No slot can become ready unless somebody releases one.
    Exhausted,
}

/// The slot is not in a state in which this can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotHeld;

/// The states of all slots.
#[derive(Debug)]
pub(crate) struct Ledger {
    states: Vec<State>,
    /// Ready slots, the longest ready first: a released address rests longest.
    ready: VecDeque<u32>,
    to_clean: VecDeque<u32>,
    to_destroy: VecDeque<u32>,
    absent: BTreeSet<u32>,
    pool_size: usize,
    idle_limit: usize,
    /// Callers that queue for a slot.
    waiting: usize,
    creating: usize,
    cleaning: usize,
    destroying: usize,
}

impl Ledger {
    /// All slots absent.
    pub(crate) fn new(max_slots: u32, pool_size: u32, idle_limit: u32) -> Self {
        let pool_size = pool_size as usize;
        Self {
            states: vec![State::Absent; max_slots as usize],
            ready: VecDeque::new(),
            to_clean: VecDeque::new(),
            to_destroy: VecDeque::new(),
            absent: (0..max_slots).collect(),
            pool_size,
            idle_limit: pool_size.max(idle_limit as usize),
            waiting: 0,
            creating: 0,
            cleaning: 0,
            destroying: 0,
        }
    }

    /// Records a slot that is held since before this run.
    pub(crate) fn adopt(&mut self, index: u32, restricted: bool) {
        if self.state(index) == Some(State::Absent) {
            self.absent.remove(&index);
            self.set(
                index,
                State::Held(Policy {
                    restricted,
                    pending: 0,
                }),
            );
        }
    }

    /// Somebody wants a slot. After [`Acquired::Later`] the caller must either take
    /// a slot with [`Ledger::take_for_waiter`] or call [`Ledger::waiter_left`].
    pub(crate) fn acquire(&mut self) -> Acquired {
        if self.waiting == 0
            && let Some(index) = self.take_ready()
        {
            return Acquired::Now(index);
        }
        if self.coming() > self.waiting {
            self.waiting += 1;
            Acquired::Later
        } else {
            Acquired::Exhausted
        }
    }

    /// A ready slot for the first in the queue.
    pub(crate) fn take_for_waiter(&mut self) -> Option<u32> {
        if self.waiting == 0 {
            return None;
        }
        let index = self.take_ready()?;
        self.waiting -= 1;
        Some(index)
    }

    /// Somebody in the queue gave up or was refused.
    pub(crate) fn waiter_left(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// How many in the queue wait in vain, because slots broke down. The caller
    /// refuses that many and calls [`Ledger::waiter_left`] for each.
    pub(crate) fn hopeless_waiters(&self) -> usize {
        self.waiting.saturating_sub(self.coming())
    }

    /// Slots that are ready or will be without anybody's release.
    fn coming(&self) -> usize {
        self.ready.len() + self.creating + self.cleaning + self.destroying + self.absent.len()
    }

    /// A slot was handed out and nobody took it: it was never used.
    pub(crate) fn hand_back(&mut self, index: u32) {
        if matches!(self.state(index), Some(State::Held(_))) {
            self.set(index, State::Ready);
            self.ready.push_front(index);
        }
    }

    /// Whether somebody holds the slot.
    pub(crate) fn is_held(&self, index: u32) -> bool {
        matches!(self.state(index), Some(State::Held(_)))
    }

    /// The holder gives the slot back. `true` means that its policy must be made
    /// plain first, by a change that is recorded here as asked for.
    pub(crate) fn release(&mut self, index: u32) -> Result<bool, NotHeld> {
        let Some(State::Held(mut policy)) = self.state(index) else {
            return Err(NotHeld);
        };
        let reset = policy.restricted || policy.pending > 0;
        policy.pending += u32::from(reset);
        self.cleaning += 1;
        self.settle(index, policy);
        Ok(reset)
    }

    /// The holder asks for a policy change.
    pub(crate) fn policy_asked(&mut self, index: u32, restricts: bool) -> Result<(), NotHeld> {
        let Some(State::Held(mut policy)) = self.state(index) else {
            return Err(NotHeld);
        };
        policy.pending += 1;
        policy.restricted |= restricts;
        self.set(index, State::Held(policy));
        Ok(())
    }

    /// A policy change was carried out, or failed. `plain` says that the slot is
    /// certainly plain now.
    pub(crate) fn policy_done(&mut self, index: u32, plain: bool) {
        let state = self.state(index);
        let (Some(State::Held(mut policy)) | Some(State::Settling(mut policy))) = state else {
            return;
        };
        policy.pending = policy.pending.saturating_sub(1);
        if policy.pending == 0 && plain {
            policy.restricted = false;
        }
        if matches!(state, Some(State::Held(_))) {
            self.set(index, State::Held(policy));
        } else {
            self.settle(index, policy);
        }
    }

    fn settle(&mut self, index: u32, policy: Policy) {
        if policy.pending > 0 {
            self.set(index, State::Settling(policy));
        } else if policy.restricted {
            // Its address could not be freed; its next guest would be cut off.
            self.cleaning -= 1;
            self.break_down(index);
        } else {
            self.set(index, State::Cleaning);
            self.to_clean.push_back(index);
        }
    }

    /// The next thing to do, if any. `may_create` is off while making slots fails.
    pub(crate) fn next_work(&mut self, may_create: bool) -> Option<Work> {
        if let Some(index) = self.to_clean.pop_front() {
            return Some(Work::Clean(index));
        }
        if may_create
            && self.ready.len() + self.creating < self.pool_size + self.waiting
            && let Some(index) = self.absent.pop_first()
        {
            self.creating += 1;
            self.set(index, State::Creating);
            return Some(Work::Create(index));
        }
        self.to_destroy.pop_front().map(Work::Destroy)
    }

    /// A slot was made, or was not (then nothing is left of it).
    pub(crate) fn created(&mut self, index: u32, made: bool) {
        if self.state(index) != Some(State::Creating) {
            return;
        }
        self.creating -= 1;
        if made {
            self.make_ready(index);
        } else {
            self.make_absent(index);
        }
    }

    /// A slot was cleaned, or is spoiled.
    pub(crate) fn cleaned(&mut self, index: u32, clean: bool) {
        if self.state(index) != Some(State::Cleaning) {
            return;
        }
        self.cleaning -= 1;
        if clean && self.ready.len() < self.idle_limit + self.waiting {
            self.make_ready(index);
        } else {
            self.destroying += 1;
            self.set(index, State::Destroying);
            self.to_destroy.push_back(index);
        }
    }

    /// A slot was removed, or could not be.
    pub(crate) fn destroyed(&mut self, index: u32, gone: bool) {
        if self.state(index) != Some(State::Destroying) {
            return;
        }
        self.destroying -= 1;
        if gone {
            self.make_absent(index);
        } else {
            self.break_down(index);
        }
    }

    /// Every slot of which something may exist in the kernel.
    pub(crate) fn existing(&self) -> Vec<u32> {
        (0..self.states.len() as u32)
            .filter(|index| {
                self.state(*index)
                    .is_some_and(|state| state != State::Absent)
            })
            .collect()
    }

    pub(crate) fn status(&self) -> PoolStatus {
        let count = |wanted: fn(&State) -> bool| {
            self.states.iter().filter(|state| wanted(state)).count() as u32
        };
        PoolStatus {
            max_slots: self.states.len() as u32,
            ready: self.ready.len() as u32,
            held: count(|state| matches!(state, State::Held(_))),
            busy: count(|state| {
                matches!(
                    state,
                    State::Creating | State::Settling(_) | State::Cleaning | State::Destroying
                )
            }),
            broken: count(|state| *state == State::Broken),
        }
    }

    fn take_ready(&mut self) -> Option<u32> {
        let index = self.ready.pop_front()?;
        self.set(index, State::Held(Policy::default()));
        Some(index)
    }

    fn make_ready(&mut self, index: u32) {
        self.set(index, State::Ready);
        self.ready.push_back(index);
    }

    fn make_absent(&mut self, index: u32) {
        self.set(index, State::Absent);
        self.absent.insert(index);
    }

    fn break_down(&mut self, index: u32) {
        self.set(index, State::Broken);
    }

    fn state(&self, index: u32) -> Option<State> {
        self.states.get(index as usize).copied()
    }

    fn set(&mut self, index: u32, state: State) {
        if let Some(slot) = self.states.get_mut(index as usize) {
            *slot = state;
        }
    }
}

#[cfg(test)]
mod tests;
