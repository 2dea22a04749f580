//! What a team uses, looked up where it is known: sandboxes and bytes on the node,
//! templates and snapshots in the store.

use crate::node::NodeSandboxState;
use crate::quotas::{Demand, decide};
use crate::{Control, Error};
use hearth_ids::BuildId;
use hearth_store::Team;
use std::collections::HashSet;

impl Control {
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
        let own: HashSet<BuildId> = self.store.team_builds(team.id).await?.into_iter().collect();
        if own.is_empty() {
            return Ok(());
        }
        let held = self.node.build_list().await.map_err(Error::from_node)?;
        let stored_bytes = held
            .iter()
            .filter(|build| own.contains(&build.id))
            .fold(0u64, |sum, build| sum.saturating_add(build.own_bytes));
        Ok(decide(Demand::Store { stored_bytes }, &team.limits)?)
    }
}
