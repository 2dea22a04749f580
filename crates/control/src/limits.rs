//! How many sandboxes a team has, counting those that are being made.
//!
//! The node's list is the truth, but a sandbox that is being placed may not be in
//! it yet. Each create therefore first enters a reservation under its sandbox id,
//! then asks the node, and counts the union of what is listed and what was
//! reserved before it. Reservations are ordered: of two that compete for the last
//! place exactly one, the earlier, gets it.

use hearth_ids::{SandboxId, TeamId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
pub(crate) struct Reservations {
    held: Mutex<HashMap<TeamId, Vec<SandboxId>>>,
}

/// A place held for a sandbox; dropping it gives the place up.
pub(crate) struct Reservation {
    of: Arc<Reservations>,
    team: TeamId,
    sandbox: SandboxId,
    earlier: Vec<SandboxId>,
}

impl Reservations {
    pub(crate) fn reserve(self: &Arc<Self>, team: TeamId, sandbox: SandboxId) -> Reservation {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let line = held.entry(team).or_default();
        let earlier = line.clone();
        line.push(sandbox.clone());
        Reservation {
            of: Arc::clone(self),
            team,
            sandbox,
            earlier,
        }
    }
}

impl Reservation {
    /// How many sandboxes there are with this one, given those the node lists.
    pub(crate) fn count_with<'a>(&'a self, listed: impl Iterator<Item = &'a SandboxId>) -> usize {
        let mut all: HashSet<&SandboxId> = listed.collect();
        all.extend(&self.earlier);
        all.insert(&self.sandbox);
        all.len()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = held.get_mut(&self.team) {
            if let Some(index) = line.iter().position(|id| *id == self.sandbox) {
                line.remove(index);
            }
            if line.is_empty() {
                held.remove(&self.team);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_of_two_gets_the_last_place() {
        let reservations = Arc::new(Reservations::default());
        let team = TeamId::random();
        let running = [SandboxId::random()];
        let first = reservations.reserve(team, SandboxId::random());
        let second = reservations.reserve(team, SandboxId::random());
        assert_eq!(first.count_with(running.iter()), 2);
        assert_eq!(second.count_with(running.iter()), 3);
        drop(first);
        let third = reservations.reserve(team, SandboxId::random());
        assert_eq!(third.count_with(running.iter()), 3);
        let elsewhere = reservations.reserve(TeamId::random(), SandboxId::random());
        assert_eq!(elsewhere.count_with([].iter()), 1);
    }

    #[test]
    fn a_listed_sandbox_is_not_counted_twice_and_nothing_is_kept() {
        let reservations = Arc::new(Reservations::default());
        let team = TeamId::random();
        let id = SandboxId::random();
        let reservation = reservations.reserve(team, id.clone());
        assert_eq!(reservation.count_with([id].iter()), 1);
        drop(reservation);
        assert!(reservations.held.lock().expect("unpoisoned").is_empty());
    }
}
