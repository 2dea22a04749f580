//! Which builds get warm VMs and which VMs are given up: a plain data structure
//! without locks, clocks or machines. Time is an argument; `V` is a VM.
//!
//! A build is *in demand* for [`IN_DEMAND_FOR`] after it was last asked for. Each
//! build in demand gets up to `per_build` VMs, the one asked for last first, as long
//! as there are no more than `total` together. Beyond that a build takes the place
//! of the one that was asked for the longest ago.

use hearth_ids::{BuildId, SandboxId};
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// A build that nobody asked for in this time gets no warm VMs.
const IN_DEMAND_FOR: Duration = Duration::from_secs(15 * 60);
/// A reservation that no create follows.
const RESERVED_FOR: Duration = Duration::from_secs(10);
/// A build whose warm VM could not be made gets no other for so long.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// A build that has a warm VM takes no place from one that was asked for within this
/// time, so that two that are used in turn do not end each other's.
const AT_REST: Duration = Duration::from_secs(60);
/// Builds that are known to get none; more are found out again when asked for.
const MAX_UNFIT: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub per_build: usize,
    pub total: usize,
}

/// A VM as far as the policy looks at it.
pub(crate) trait Vm {
    fn is_alive(&self) -> bool;
}

pub(crate) struct Policy<V> {
    limits: Limits,
    entries: HashMap<SandboxId, Entry<V>>,
    demand: HashMap<BuildId, Demand>,
    /// Builds that can have no warm VM: a build never changes, so this stays true.
    unfit: HashSet<BuildId>,
    making: Option<BuildId>,
    /// The daemon goes down: nothing is given out or made.
    closed: bool,
}

struct Entry<V> {
    build: BuildId,
    vm: V,
    reserved_at: Option<Instant>,
}

struct Demand {
    last: Instant,
    /// No attempt before this.
    not_before: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reserve {
    Got(SandboxId),
    /// One is being made.
    Soon,
    None,
}

/// What is to be made next, and what gives way to it.
#[derive(Debug)]
pub(crate) struct Next<V> {
    pub build: BuildId,
    pub evicted: Option<V>,
}

impl<V: Vm> Policy<V> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            demand: HashMap::new(),
            unfit: HashSet::new(),
            making: None,
            closed: false,
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.limits.per_build == 0 || self.limits.total == 0
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.demand.is_empty() && self.entries.is_empty()
    }

    /// Promises a VM of the build to somebody, and notes that the build is asked for.
    pub(crate) fn reserve(&mut self, build: BuildId, now: Instant) -> Reserve {
        if self.closed || self.is_off() || self.unfit.contains(&build) {
            return Reserve::None;
        }
        let demand = self.demand.entry(build).or_insert(Demand {
            last: now,
            not_before: None,
        });
        demand.last = now;
        let free = self.entries.iter_mut().find(|(_, entry)| {
            entry.reserved_at.is_none() && entry.build == build && entry.vm.is_alive()
        });
        match free {
            Some((id, entry)) => {
                entry.reserved_at = Some(now);
                Reserve::Got(id.clone())
            }
            None if self.making == Some(build) => Reserve::Soon,
            None => Reserve::None,
        }
    }

    /// Takes the VM of this id for good, in whatever state it is.
    pub(crate) fn take(&mut self, id: &SandboxId) -> Option<V> {
        self.entries.remove(id).map(|entry| entry.vm)
    }

    /// The build that is most in need of a VM, marked as being made.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Next<V>> {
        self.making = None;
        if self.closed || self.is_off() {
            return None;
        }
        let mut lacking: Vec<(BuildId, Instant)> = self
            .demand
            .iter()
            .filter(|(build, demand)| {
                demand.not_before.is_none_or(|at| at <= now)
                    && self.count(**build) < self.limits.per_build
            })
            .map(|(build, demand)| (*build, demand.last))
            .collect();
        lacking.sort_by_key(|(build, last)| std::cmp::Reverse((*last, *build)));
        let roomy = self.entries.len() < self.limits.total;
        let (build, victim) = lacking.into_iter().find_map(|(build, last)| {
            if roomy {
                return Some((build, None));
            }
            let victim = self.victim(build, last, now)?;
            Some((build, Some(victim)))
        })?;
        self.making = Some(build);
        let evicted = victim.and_then(|id| self.take(&id));
        Some(Next { build, evicted })
    }

    fn count(&self, build: BuildId) -> usize {
        let entries = self.entries.values();
        entries.filter(|entry| entry.build == build).count()
    }

    /// The VM that gives way to one of `build`: a free one of the build that was asked
    /// for the longest ago, longer than `build` itself.
    fn victim(&self, build: BuildId, last: Instant, now: Instant) -> Option<SandboxId> {
        let has_one = self.count(build) > 0;
        self.entries
            .iter()
            .filter(|(_, entry)| entry.build != build && entry.reserved_at.is_none())
            .map(|(id, entry)| {
                let demand = self.demand.get(&entry.build);
                (demand.map(|demand| demand.last), id)
            })
            .filter(|(used, _)| {
                used.is_none_or(|used| {
                    used < last && (!has_one || now.saturating_duration_since(used) >= AT_REST)
                })
            })
            .min()
            .map(|(_, id)| id.clone())
    }

    /// Takes in the VM that was made. Given back where it is of no use any more.
    #[must_use]
    pub(crate) fn made(&mut self, build: BuildId, id: SandboxId, vm: V) -> Option<V> {
        self.making = None;
        if self.closed || !self.demand.contains_key(&build) {
            return Some(vm);
        }
        let entry = Entry {
            build,
            vm,
            reserved_at: None,
        };
        self.entries.insert(id, entry).map(|entry| entry.vm)
    }

    /// The VM could not be made, for a reason that may pass.
    pub(crate) fn failed(&mut self, build: BuildId, now: Instant) {
        self.making = None;
        if let Some(demand) = self.demand.get_mut(&build) {
            demand.not_before = Some(now + AFTER_FAILURE);
        }
    }

    /// The build gets no warm VMs any more: it is deleted, or was never fit for it.
    /// Its VMs are given back, promised or not.
    #[must_use]
    pub(crate) fn exclude(&mut self, build: BuildId) -> Vec<V> {
        if self.unfit.len() >= MAX_UNFIT {
            self.unfit.clear();
        }
        self.unfit.insert(build);
        self.demand.remove(&build);
        if self.making == Some(build) {
            self.making = None;
        }
        self.take_where(|entry| entry.build == build)
    }

    /// Gives back the VMs that have died and those of builds that nobody asks for any
    /// more. Promises that nobody kept lapse.
    #[must_use]
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<V> {
        self.demand
            .retain(|_, demand| now.saturating_duration_since(demand.last) < IN_DEMAND_FOR);
        for entry in self.entries.values_mut() {
            let since = entry.reserved_at;
            if since.is_some_and(|at| now.saturating_duration_since(at) > RESERVED_FOR) {
                entry.reserved_at = None;
            }
        }
        let wanted: HashSet<BuildId> = self.demand.keys().copied().collect();
        self.take_where(|entry| {
            entry.reserved_at.is_none() && (!wanted.contains(&entry.build) || !entry.vm.is_alive())
        })
    }

    /// Gives back every VM that is not promised to anybody. None of the builds is in
    /// demand until it is asked for again.
    #[must_use]
    pub(crate) fn take_free(&mut self) -> Vec<V> {
        self.demand.clear();
        self.take_where(|entry| entry.reserved_at.is_none())
    }

    #[must_use]
    pub(crate) fn close(&mut self) -> Vec<V> {
        self.closed = true;
        self.take_where(|_| true)
    }

    fn take_where(&mut self, mut given_up: impl FnMut(&Entry<V>) -> bool) -> Vec<V> {
        let taken = self.entries.extract_if(|_, entry| given_up(entry));
        taken.map(|(_, entry)| entry.vm).collect()
    }
}

#[cfg(test)]
mod tests;
