//! Teams, and what each may use.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;

/// What a team may use. The defaults are those of the contract's free tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TeamLimits {
    /// Sandboxes that run at the same time.
    pub max_concurrent_sandboxes: u32,
    /// The longest time a sandbox may be given to live, counted from now.
    pub max_length_hours: u32,
    /// Processors of one sandbox.
    pub max_vcpus: u32,
    /// Memory of one sandbox.
    pub max_memory_mib: u32,
    /// Disk of one sandbox.
    pub max_disk_mib: u32,
    /// Processors of all running sandboxes together; [`TeamLimits::NO_LIMIT`] is none.
    pub max_total_vcpus: u32,
    /// Memory of all running sandboxes together; [`TeamLimits::NO_LIMIT`] is none.
    pub max_total_memory_mib: u32,
    /// Sandboxes that are paused.
    pub max_paused_sandboxes: u32,
    /// Snapshots, each name counted once.
    pub max_snapshots: u32,
    /// Templates that are no snapshots.
    pub max_templates: u32,
    /// Volumes.
    pub max_volumes: u32,
    /// What all builds of its templates and snapshots account for on disk.
    pub max_stored_mib: u32,
}

impl TeamLimits {
    /// So much that nothing is refused.
    pub const NO_LIMIT: u32 = u32::MAX;
}

/// Who set a team's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsSetBy {
    /// The settings, which a start applies to the first team.
    Settings,
    /// An operator, whose word holds from then on.
    Operator,
}

impl Default for TeamLimits {
    fn default() -> Self {
        Self {
            max_concurrent_sandboxes: 20,
            max_length_hours: 1,
            max_vcpus: 8,
            max_memory_mib: 8192,
            max_disk_mib: 25_600,
            max_total_vcpus: Self::NO_LIMIT,
            max_total_memory_mib: Self::NO_LIMIT,
            max_paused_sandboxes: 1000,
            max_snapshots: 1000,
            max_templates: 500,
            max_volumes: 100,
            max_stored_mib: 524_288,
        }
    }
}

/// A team to be made.
#[derive(Debug, Clone)]
pub struct NewTeam {
    /// Its id for ever.
    pub id: TeamId,
    /// The namespace of the team's templates.
    pub slug: String,
    /// For people.
    pub name: String,
    /// What it may use.
    pub limits: TeamLimits,
    /// Now.
    pub created_at: DateTime<Utc>,
}

/// A team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Its id for ever.
    pub id: TeamId,
    /// The namespace of the team's templates.
    pub slug: String,
    /// For people.
    pub name: String,
    /// What it may use.
    pub limits: TeamLimits,
    /// Who set them last.
    pub limits_set_by: LimitsSetBy,
    /// Banned teams may do nothing.
    pub banned: bool,
    /// Blocked teams may look and clean up; why they are is told to them.
    pub blocked_reason: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The part of the store that keeps teams.
#[async_trait]
pub trait TeamStore: Send + Sync {
    /// Errors: [`crate::Error::Conflict`] when the id or slug is taken.
    async fn team_create(&self, team: NewTeam) -> Result<Team>;
    /// All teams, by their slugs.
    async fn team_list(&self) -> Result<Vec<Team>>;
    /// The team of this slug.
    async fn team_by_slug(&self, slug: &str) -> Result<Option<Team>>;
    /// The team of this id.
    async fn team(&self, id: TeamId) -> Result<Option<Team>>;
    /// Answers whether they were set: the team exists, and the settings do not come
    /// after an operator.
    async fn team_set_limits(
        &self,
        id: TeamId,
        limits: TeamLimits,
        by: LimitsSetBy,
    ) -> Result<bool>;
    /// Bans or unbans, blocks (with a reason) or unblocks a team.
    async fn team_set_standing(
        &self,
        id: TeamId,
        banned: bool,
        blocked_reason: Option<&str>,
    ) -> Result<bool>;
    /// Deletes a team with its API keys. Answers whether there was one. Errors:
    /// [`crate::Error::Dangling`] when it has templates, snapshots or volumes.
    async fn team_delete(&self, id: TeamId) -> Result<bool>;
}
