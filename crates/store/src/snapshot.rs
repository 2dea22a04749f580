//! Snapshots: builds that were made of a running sandbox.

use crate::{NewBuild, NewTemplate, OwnerId, Result};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};

/// A build that was made of a running sandbox, and the name it gets.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// Made first, where it is a new one; the build's template otherwise exists.
    pub template: Option<NewTemplate>,
    /// What was made.
    pub build: NewBuild,
    /// Whose it is.
    pub team_id: TeamId,
    /// What it was made of.
    pub sandbox_id: SandboxId,
    /// The tag that it gets.
    pub tag: String,
    /// Who noted the build as one to discard before it was made.
    pub owner: OwnerId,
}

/// A name of a snapshot: a tag of a template whose builds are of sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The template that stands for it.
    pub template_id: TemplateId,
    /// The build that its tag names.
    pub build_id: BuildId,
    /// What it was made of.
    pub sandbox_id: SandboxId,
    /// The tag.
    pub tag: String,
    /// When the tag was given.
    pub created_at: DateTime<Utc>,
}

/// The part of the store that keeps snapshots.
#[async_trait]
pub trait SnapshotStore: Send + Sync {
    /// Records a snapshot: its template where that is new, the build, its tag. The
    /// build is no longer noted as one to discard. Errors: [`crate::Error::Conflict`]
    /// when the id or the alias is taken, [`crate::Error::Dangling`] when the template
    /// is gone, [`crate::Error::TakenOver`] when the build is not noted by its owner
    /// (any more): another process takes that one for dead and discards the build.
    async fn snapshot_create(&self, snapshot: NewSnapshot) -> Result<()>;
    /// A team's snapshots under their present tags, newest first.
    async fn snapshot_list(
        &self,
        team: TeamId,
        sandbox: Option<&SandboxId>,
        template: Option<&TemplateId>,
    ) -> Result<Vec<Snapshot>>;
    /// The sandbox that a build was made of, if it is a snapshot's.
    async fn snapshot_source(&self, build: BuildId) -> Result<Option<SandboxId>>;
    /// Whether a template holds snapshots.
    async fn template_is_snapshot(&self, template: &TemplateId) -> Result<bool>;
}
