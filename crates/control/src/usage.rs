//! What a team uses, looked up where it is known: sandboxes and bytes on the node,
//! templates and snapshots in the store.

use crate::limits::{Reservation, Shape};
use crate::node::NodeSandboxState;
use crate::quotas::{Demand, decide};
use crate::sandboxes::{occupies, placement_error};
use crate::{Control, Error};
use hearth_ids::{BuildId, TeamId};
use hearth_store::Team;
use std::collections::HashSet;

/// What a team's sandboxes and builds take at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TeamAllocated {
    /// Sandboxes that run, or are on their way to.
    pub running_sandboxes: u64,
    /// Processors of those.
    pub vcpus: u64,
    /// Memory of those.
    pub memory_mib: u64,
    /// Sandboxes that are paused.
    pub paused_sandboxes: u64,
    /// Size of the disks of all sandboxes, paused ones among them.
    pub disk_mib: u64,
    /// Bytes that builds of templates and snapshots account for.
    pub stored_bytes: u64,
}

impl Control {
    /// What a team's sandboxes and builds take now.
    ///
    /// # Errors
    /// `Unavailable` and `Timeout` of the node.
    pub async fn team_allocated(&self, team: TeamId) -> Result<TeamAllocated, Error> {
        let listed = self.node.of_team(team).await;
        let mut sum = TeamAllocated::default();
        for sandbox in listed.map_err(Error::from_node)? {
            if occupies(sandbox.state) {
                sum.running_sandboxes += 1;
                sum.vcpus += u64::from(sandbox.vcpus);
                sum.memory_mib += u64::from(sandbox.memory_mib);
            }
            sum.paused_sandboxes += u64::from(sandbox.state == NodeSandboxState::Paused);
            sum.disk_mib += u64::from(sandbox.disk_mib);
        }
        sum.stored_bytes = self.stored_bytes(team).await?;
        Ok(sum)
    }

    /// Refuses one sandbox more than a team may have at the same time, and more processors
    /// and memory than its sandboxes may take together.
    pub(crate) async fn check_concurrency(
        &self,
        team: &Team,
        reservation: &Reservation,
        shape: Shape,
    ) -> Result<(), Error> {
        let sized = reservation.size(shape);
        let listed = self.node.active_of_team(team.id).await;
        let listed = listed.map_err(placement_error)?;
        let mine = || listed.iter().filter(|sandbox| occupies(sandbox.state));
        let with_it = reservation.count_with(mine().map(|sandbox| &sandbox.sandbox_id));
        decide(Demand::Run { with_it }, &team.limits)?;
        let sum = sized.sum_with(mine().map(|sandbox| {
            let shape = Shape::of(sandbox.vcpus, sandbox.memory_mib);
            (sandbox.sandbox_id.clone(), shape)
        }));
        let (with_it, with_it_mib) = (sum.vcpus, sum.memory_mib);
        decide(Demand::Vcpus { with_it }, &team.limits)?;
        Ok(decide(Demand::Memory { with_it_mib }, &team.limits)?)
    }

    /// Refuses `more` paused sandboxes beyond what a team may have. What is paused because its
    /// time is over is not refused: its state would be lost.
    pub(crate) async fn check_paused(&self, team: &Team, more: usize) -> Result<(), Error> {
        let listed = self.node.of_team(team.id).await;
        let listed = listed.map_err(Error::from_node)?;
        let paused = listed
            .iter()
            .filter(|sandbox| sandbox.state == NodeSandboxState::Paused)
            .count();
        Ok(decide(Demand::Pause { paused, more }, &team.limits)?)
    }

    /// Refuses a snapshot beyond a team's limits: of their number where it is `new`, of
    /// bytes in any case.
    pub(crate) async fn check_snapshots(&self, team: &Team, new: bool) -> Result<(), Error> {
        if new {
            let all = self.store.snapshot_list(team.id, None, None).await?;
            let names: HashSet<_> = all.iter().map(|snapshot| &snapshot.template_id).collect();
            let snapshots = names.len();
            decide(Demand::Snapshot { snapshots }, &team.limits)?;
        }
        self.check_stored(team).await
    }

    /// Refuses one template more than a team may have.
    pub(crate) async fn check_templates(&self, team: &Team) -> Result<(), Error> {
        let templates = self.store.template_list(team.id).await?;
        let templates = templates.iter().filter(|template| !template.is_default);
        let templates = templates.count();
        Ok(decide(Demand::Template { templates }, &team.limits)?)
    }

    /// Refuses more bytes where a team's builds account for as many as it may have.
    pub(crate) async fn check_stored(&self, team: &Team) -> Result<(), Error> {
        let stored_bytes = self.stored_bytes(team.id).await?;
        Ok(decide(Demand::Store { stored_bytes }, &team.limits)?)
    }

    /// Bytes that a team's builds account for.
    async fn stored_bytes(&self, team: TeamId) -> Result<u64, Error> {
        let own: HashSet<BuildId> = self.store.team_builds(team).await?.into_iter().collect();
        if own.is_empty() {
            return Ok(0);
        }
        let held = self.node.build_list().await.map_err(Error::from_node)?;
        let own = held.iter().filter(|build| own.contains(&build.id));
        Ok(own.fold(0, |sum: u64, build| sum.saturating_add(build.own_bytes)))
    }
}
