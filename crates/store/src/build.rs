//! Builds of templates, and the tags that name them.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TeamId, TemplateId};

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildStatus {
    /// Asked for and not begun.
    Waiting,
    /// Begun.
    Building,
    /// Sandboxes can be made from it.
    Ready,
    /// It failed.
    Error,
}

/// A build to be recorded.
#[derive(Debug, Clone)]
pub struct NewBuild {
    /// Its id for ever.
    pub id: BuildId,
    /// What it is a build of.
    pub template_id: TemplateId,
    /// How far it is.
    pub status: BuildStatus,
    /// Processors of its sandboxes.
    pub vcpus: u32,
    /// Memory of its sandboxes.
    pub memory_mib: u32,
    /// Disk of its sandboxes.
    pub disk_mib: u32,
    /// Version of its agent.
    pub envd_version: String,
    /// Now.
    pub created_at: DateTime<Utc>,
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its id for ever.
    pub id: BuildId,
    /// What it is a build of.
    pub template_id: TemplateId,
    /// How far it is.
    pub status: BuildStatus,
    /// Processors of its sandboxes.
    pub vcpus: u32,
    /// Memory of its sandboxes.
    pub memory_mib: u32,
    /// Disk of its sandboxes.
    pub disk_mib: u32,
    /// Version of its agent.
    pub envd_version: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its status last changed.
    pub updated_at: DateTime<Utc>,
    /// When it became ready or failed.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a tag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagAssignment {
    /// The tag.
    pub tag: String,
    /// The build that it names.
    pub build_id: BuildId,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// The part of the store that keeps builds and tags.
#[async_trait]
pub trait BuildStore: Send + Sync {
    /// Errors: [`crate::Error::Conflict`] when the id is taken.
    async fn build_create(&self, build: NewBuild) -> Result<Build>;
    /// The build of this id.
    async fn build(&self, id: BuildId) -> Result<Option<Build>>;
    /// Moves a build on; `ready` and `error` set the time of its end.
    async fn build_set_status(
        &self,
        id: BuildId,
        status: BuildStatus,
        now: DateTime<Utc>,
    ) -> Result<bool>;
    /// A template's builds, newest first, at most `limit`, older than `before`.
    async fn build_list(
        &self,
        template: &TemplateId,
        before: Option<(DateTime<Utc>, BuildId)>,
        limit: u32,
    ) -> Result<Vec<Build>>;
    /// The builds of a team's templates and snapshots, but for those of the templates
    /// that every installation has.
    async fn team_builds(&self, team: TeamId) -> Result<Vec<BuildId>>;
    /// How many builds a template has.
    async fn build_count(&self, template: &TemplateId) -> Result<u32>;

    /// Appends an assignment, which from now on is the tag's.
    async fn tag_assign(
        &self,
        template: &TemplateId,
        tag: &str,
        build: BuildId,
        now: DateTime<Utc>,
    ) -> Result<()>;
    /// The build that a tag names now.
    async fn tag_build(&self, template: &TemplateId, tag: &str) -> Result<Option<Build>>;
    /// Each tag with its latest assignment, by name.
    async fn tag_list(&self, template: &TemplateId) -> Result<Vec<TagAssignment>>;
    /// Forgets a tag. Answers whether there was one.
    async fn tag_delete(&self, template: &TemplateId, tag: &str) -> Result<bool>;
}
