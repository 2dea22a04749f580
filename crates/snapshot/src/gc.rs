//! Which builds nothing needs: the policy of garbage collection, without a clock, a lock
//! or a file. [`crate::LocalStore`] gathers the [`Facts`] and carries the decision out.
//!
//! A build is *expendable* when nobody can start anything from it by itself: it is
//! retired, or the kept state of a sandbox. An expendable build goes unless it is needed:
//!
//! - by a lease (somebody maps it, reads it, or is about to),
//! - by a hold (somebody who cannot be read may need it),
//! - or by a build that stays and is based on it.
//!
//! What cannot be read is never removed and protects what it may refer to. Where it
//! tells which builds that are, these alone; where it does not, every build that was
//! there when it was first found unreadable ([`Held::Present`]). Builds that were made
//! later cannot be among those: it refers to what was there when it was written. So
//! one damaged manifest or journal costs disk space, and collection goes on. Sets of ids
//! say what was there before what, and not ages: clocks are set back, and copies of
//! builds are younger than what they are copies of.

use hearth_ids::BuildId;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What the policy has to know.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// Every readable build.
    pub builds: Vec<StoredBuild<'a>>,
    /// Builds that are in use, or about to be; they need not exist.
    pub leased: HashSet<BuildId>,
    /// What those need who cannot be read.
    pub holds: Vec<&'a Held>,
}

/// What the policy has to know of a build.
#[derive(Debug, Clone, Copy)]
pub struct StoredBuild<'a> {
    /// The build's id.
    pub id: BuildId,
    /// Whether nothing is started from it by itself.
    pub expendable: bool,
    /// The builds whose files it needs beside its own.
    pub parents: &'a [BuildId],
}

/// The builds that somebody refers to whose own text cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum References {
    /// The text tells them, whatever else is wrong with it.
    Named(Vec<BuildId>),
    /// The text does not tell, or not reliably.
    Unknown,
}

/// The builds that stay for somebody who cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// All, whenever they were made: it could not be found out which there were.
    All,
    /// Those that were there when it was found unreadable, or that it names.
    Present(BTreeSet<BuildId>),
}

impl Held {
    /// Whether the build stays for this.
    #[must_use]
    pub fn covers(&self, id: BuildId) -> bool {
        match self {
            Self::All => true,
            Self::Present(builds) => builds.contains(&id),
        }
    }
}

/// The builds that can be removed now, in the order in which the facts list them.
#[must_use]
pub fn removable(facts: &Facts<'_>) -> Vec<BuildId> {
    let parents: HashMap<BuildId, &[BuildId]> = facts
        .builds
        .iter()
        .map(|build| (build.id, build.parents))
        .collect();
    let stays = |build: &&StoredBuild<'_>| {
        !build.expendable || facts.holds.iter().any(|held| held.covers(build.id))
    };
    let roots = facts.builds.iter().filter(stays).map(|build| build.id);
    let mut open: Vec<BuildId> = roots.chain(facts.leased.iter().copied()).collect();
    let mut needed: HashSet<BuildId> = HashSet::new();
    while let Some(id) = open.pop() {
        if needed.insert(id) {
            open.extend(parents.get(&id).copied().unwrap_or_default());
        }
    }
    let builds = facts.builds.iter().map(|build| build.id);
    builds.filter(|id| !needed.contains(id)).collect()
}

#[cfg(test)]
mod tests;
