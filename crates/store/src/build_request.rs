//! Builds that teams ask for: registered, begun, and ended once.

use crate::{Build, NewBuild, Result};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TeamId};

/// A build that a team asks for.
#[derive(Debug, Clone)]
pub struct NewBuildRequest {
    /// The build.
    pub build: NewBuild,
    /// Who asks for it.
    pub team_id: TeamId,
    /// What the build is to be found by when it is ready.
    pub tags: Vec<String>,
    /// Space that its sandboxes find free at their start.
    pub min_free_disk_mib: u32,
}

/// A build with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    /// The build.
    pub build: Build,
    /// Who asked for it.
    pub team_id: TeamId,
    /// What the build is to be found by when it is ready.
    pub tags: Vec<String>,
    /// Space that its sandboxes find free at their start.
    pub min_free_disk_mib: u32,
    /// Why it failed.
    pub reason: Option<String>,
    /// At which step it failed.
    pub reason_step: Option<String>,
}

/// The part of the store that keeps them. Each change of a build's status says
/// from where it leads, so that of two that compete one wins.
#[async_trait]
pub trait TemplateBuildStore: Send + Sync {
    /// Errors: [`crate::Error::Conflict`] when the id is taken.
    async fn build_request_create(&self, request: NewBuildRequest) -> Result<Build>;
    /// The build of this id, if a team asked for it.
    async fn build_request(&self, id: BuildId) -> Result<Option<BuildRequest>>;
    /// Those that wait or build, oldest first.
    async fn build_request_list_active(&self) -> Result<Vec<BuildRequest>>;
    /// From waiting to building. Answers whether it was waiting.
    async fn build_begin(&self, id: BuildId, now: DateTime<Utc>) -> Result<bool>;
    /// From waiting or building to ready, under its tags. Answers whether it was.
    async fn build_succeed(
        &self,
        id: BuildId,
        disk_mib: u32,
        envd_version: &str,
        now: DateTime<Utc>,
    ) -> Result<bool>;
    /// From waiting or building to error. Answers whether it was.
    async fn build_fail(
        &self,
        id: BuildId,
        reason: &str,
        step: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool>;
}
