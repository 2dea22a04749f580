use super::*;
use proptest::prelude::*;

/// A store as the tests draw it: each build is based on earlier ones.
#[derive(Debug, Clone)]
struct World {
    ids: Vec<BuildId>,
    expendable: Vec<bool>,
    parents: Vec<Vec<BuildId>>,
    leased: HashSet<BuildId>,
    holds: Vec<Held>,
}

impl World {
    fn facts(&self) -> Facts<'_> {
        let builds = (0..self.ids.len()).map(|index| StoredBuild {
            id: self.ids[index],
            expendable: self.expendable[index],
            parents: &self.parents[index],
        });
        Facts {
            builds: builds.collect(),
            leased: self.leased.clone(),
            holds: self.holds.iter().collect(),
        }
    }

    fn removable(&self) -> HashSet<BuildId> {
        removable(&self.facts()).into_iter().collect()
    }

    /// The model: a build is needed when it is a root or somebody needed is based on it,
    /// asked for each build anew.
    fn needed(&self, id: BuildId) -> bool {
        let index = self.ids.iter().position(|other| *other == id).unwrap();
        let held = self.holds.iter().any(|held| held.covers(id));
        if !self.expendable[index] || self.leased.contains(&id) || held {
            return true;
        }
        let above = (0..self.ids.len()).filter(|above| self.parents[*above].contains(&id));
        above.into_iter().any(|above| self.needed(self.ids[above]))
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let build = (any::<bool>(), proptest::collection::vec(0usize..12, 0..3));
    let some = || proptest::collection::vec(0usize..12, 0..4);
    (
        proptest::collection::vec(build, 1..12),
        some(),
        proptest::collection::vec(some(), 0..3),
    )
        .prop_map(|(builds, leased, holds)| {
            let ids: Vec<BuildId> = builds.iter().map(|_| BuildId::random()).collect();
            let at = |index: usize| ids[index % ids.len()];
            let parents = builds.iter().enumerate().map(|(index, (_, below))| {
                let below = below.iter().filter(|_| index > 0);
                below.map(|below| ids[below % index]).collect()
            });
            World {
                parents: parents.collect(),
                expendable: builds.iter().map(|(expendable, _)| *expendable).collect(),
                leased: leased.into_iter().map(at).collect(),
                holds: holds
                    .into_iter()
                    .map(|held| Held::Present(held.into_iter().map(at).collect()))
                    .collect(),
                ids,
            }
        })
}

proptest! {
    /// Exactly what the model does not need is removed.
    #[test]
    fn the_needless_go_and_only_they(world in worlds()) {
        let removed = world.removable();
        for id in &world.ids {
            prop_assert_eq!(removed.contains(id), !world.needed(*id));
        }
    }

    /// No build that stays misses one that it is based on.
    #[test]
    fn what_stays_is_whole(world in worlds()) {
        let removed = world.removable();
        for (id, parents) in world.ids.iter().zip(&world.parents) {
            if !removed.contains(id) {
                prop_assert!(parents.iter().all(|parent| !removed.contains(parent)));
            }
        }
    }

    /// Another lease or hold never lets more be removed.
    #[test]
    fn protection_is_monotone(world in worlds(), pick in 0usize..12, lease in any::<bool>()) {
        let before = world.removable();
        let id = world.ids[pick % world.ids.len()];
        let mut more = world;
        if lease {
            more.leased.insert(id);
        } else {
            more.holds.push(Held::Present(BTreeSet::from([id])));
        }
        let after = more.removable();
        prop_assert!(after.is_subset(&before));
        prop_assert!(!after.contains(&id));
    }

    /// Once removed, nothing further becomes removable: one pass is enough.
    #[test]
    fn one_pass_is_enough(world in worlds()) {
        let removed = world.removable();
        let mut rest = world.clone();
        let stay: Vec<usize> = (0..world.ids.len())
            .filter(|index| !removed.contains(&world.ids[*index]))
            .collect();
        rest.ids = stay.iter().map(|index| world.ids[*index]).collect();
        rest.expendable = stay.iter().map(|index| world.expendable[*index]).collect();
        rest.parents = stay.iter().map(|index| world.parents[*index].clone()).collect();
        prop_assert!(rest.removable().is_empty());
    }

    /// Whoever cannot be read holds what was there before it, and nothing that came
    /// after, however that grew upon the former.
    #[test]
    fn an_unreadable_one_holds_what_was_there_and_nothing_later(
        world in worlds(),
        split in 0usize..12,
    ) {
        let split = split % (world.ids.len() + 1);
        let present: BTreeSet<BuildId> = world.ids[..split].iter().copied().collect();
        let mut damaged = world.clone();
        damaged.holds.push(Held::Present(present.clone()));
        let (before, after) = (world.removable(), damaged.removable());
        for id in &world.ids {
            if present.contains(id) {
                prop_assert!(!after.contains(id));
            } else {
                // Builds are based on earlier ones only: later ones fare as before.
                prop_assert_eq!(after.contains(id), before.contains(id));
            }
        }
        damaged.holds.push(Held::All);
        prop_assert!(damaged.removable().is_empty());
    }
}
