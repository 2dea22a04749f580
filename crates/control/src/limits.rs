//! How many sandboxes a team has, counting those that are being made.
//!
//! The node's list is the truth, but a sandbox that is being placed may not be in
//! it yet. Each create therefore first enters a reservation under its sandbox id,
//! then asks the node, and counts the union of what is listed and what was
//! reserved before it. Reservations are ordered: of two that compete for the last
//! place exactly one, the earlier, gets it.
//!
//! Sums of processors and memory are counted in the same way, in the order in which the
//! requests came to know the shapes of their sandboxes: what is still looked up takes
//! nothing yet.

use hearth_ids::{SandboxId, TeamId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
pub(crate) struct Reservations {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Of the next one.
    number: u64,
    /// In the order of their numbers.
    teams: HashMap<TeamId, BTreeMap<u64, Place>>,
}

struct Place {
    sandbox: SandboxId,
    /// Once it is known.
    shape: Option<Shape>,
}

/// What a sandbox takes while it runs, or several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) vcpus: u64,
    pub(crate) memory_mib: u64,
}

impl Shape {
    pub(crate) fn of(vcpus: u32, memory_mib: u32) -> Self {
        Self {
            vcpus: vcpus.into(),
            memory_mib: memory_mib.into(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
        }
    }
}

/// A place held for a sandbox; dropping it gives the place up.
pub(crate) struct Reservation {
    of: Arc<Reservations>,
    number: u64,
    team: TeamId,
    sandbox: SandboxId,
    earlier: Vec<SandboxId>,
}

/// What is to be counted of others that were sized before.
pub(crate) struct Sized<'a> {
    reservation: &'a Reservation,
    own: Shape,
    earlier: HashMap<SandboxId, Shape>,
}

impl Reservations {
    pub(crate) fn reserve(self: &Arc<Self>, team: TeamId, sandbox: SandboxId) -> Reservation {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.number += 1;
        let number = held.number;
        let line = held.teams.entry(team).or_default();
        let earlier = line.values().map(|place| place.sandbox.clone()).collect();
        let place = Place {
            sandbox: sandbox.clone(),
            shape: None,
        };
        line.insert(number, place);
        Reservation {
            of: Arc::clone(self),
            number,
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

impl Reservation {
    /// Says what the sandbox will take. To be called before the node's list is asked for:
    /// a sandbox that was sized before is in the answer, or in that list.
    pub(crate) fn size(&self, own: Shape) -> Sized<'_> {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        let line = held.teams.entry(self.team).or_default();
        let others = line.iter().filter(|(number, _)| **number != self.number);
        let sized = others.filter_map(|(_, place)| Some((place.sandbox.clone(), place.shape?)));
        let earlier = sized.collect();
        if let Some(place) = line.get_mut(&self.number) {
            place.shape = Some(own);
        }
        Sized {
            reservation: self,
            own,
            earlier,
        }
    }
}

impl Sized<'_> {
    /// What all take with this one, given those the node lists.
    pub(crate) fn sum_with(mut self, listed: impl Iterator<Item = (SandboxId, Shape)>) -> Shape {
        self.earlier.extend(listed);
        self.earlier.remove(&self.reservation.sandbox);
        self.earlier.into_values().fold(self.own, Shape::and)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = held.teams.get_mut(&self.team) {
            line.remove(&self.number);
            if line.is_empty() {
                held.teams.remove(&self.team);
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
        let held = reservations.held.lock().expect("unpoisoned");
        assert!(held.teams.is_empty());
    }

    #[test]
    fn what_was_sized_before_is_summed_up_once() {
        let reservations = Arc::new(Reservations::default());
        let team = TeamId::random();
        let ids: Vec<SandboxId> = (0..4).map(|_| SandboxId::random()).collect();
        let reserve = |id: &SandboxId| reservations.reserve(team, id.clone());
        let (first, second, third) = (reserve(&ids[0]), reserve(&ids[1]), reserve(&ids[2]));
        let sum = |vcpus, memory_mib| Shape { vcpus, memory_mib };
        // The second is sized first: the first, whose shape is not known, takes nothing.
        let two = second.size(Shape::of(2, 1024));
        assert_eq!(two.sum_with(std::iter::empty()), sum(2, 1024));
        let one = first.size(Shape::of(4, 512));
        // It runs by now, and is listed.
        let listed = [(ids[1].clone(), Shape::of(2, 1024))];
        assert_eq!(one.sum_with(listed.iter().cloned()), sum(6, 1536));
        drop(second);
        let three = third.size(Shape::of(1, 128));
        let listed = [
            (ids[3].clone(), Shape::of(8, 1)),
            (ids[2].clone(), Shape::of(1, 128)),
        ];
        assert_eq!(three.sum_with(listed.into_iter()), sum(13, 641));
    }
}
