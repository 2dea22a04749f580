//! What sandboxes used: executions, each from a start to a pause or an end.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{SandboxId, TeamId, TemplateId};

/// A sandbox that ran without a pause, or still does. Known by its sandbox and its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The sandbox.
    pub sandbox_id: SandboxId,
    /// When it was started or resumed.
    pub started_at: DateTime<Utc>,
    /// Whose it is.
    pub team_id: TeamId,
    /// What it was made from.
    pub template_id: TemplateId,
    /// Processors that it had.
    pub vcpus: u32,
    /// Memory that it had.
    pub memory_mib: u32,
    /// When it was paused or ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// An execution of which no end is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenExecution {
    /// The sandbox.
    pub sandbox_id: SandboxId,
    /// When it was started or resumed.
    pub started_at: DateTime<Utc>,
    /// Since when no node has the sandbox.
    pub missing_since: Option<DateTime<Utc>>,
}

/// A time from `start`, and before `end`, which is at most now: what runs is counted up
/// to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first moment.
    pub start: DateTime<Utc>,
    /// The moment after the last one.
    pub end: DateTime<Utc>,
}

/// What was used in a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Executions that ran in it.
    pub executions: u64,
    /// Milliseconds, each times its processors.
    pub vcpu_ms: u64,
    /// Milliseconds, each times its memory in MiB.
    pub memory_mib_ms: u64,
}

impl Usage {
    /// Seconds, each times its processors.
    #[must_use]
    pub fn vcpu_seconds(&self) -> f64 {
        self.vcpu_ms as f64 / 1000.0
    }

    /// Seconds, each times its memory in GiB.
    #[must_use]
    pub fn memory_gib_seconds(&self) -> f64 {
        self.memory_mib_ms as f64 / (1000.0 * 1024.0)
    }
}

/// Starts and ends within one step of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadStep {
    /// Number of the step, from 0.
    pub step: u32,
    /// Sandboxes that were started or resumed in it.
    pub started: u64,
    /// Sandboxes that were paused or ended in it.
    pub ended: u64,
}

/// How many sandboxes of a team ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// At the start of the span.
    pub running: u64,
    /// Steps in which that changed, in order.
    pub steps: Vec<LoadStep>,
}

/// The part of the store that keeps what was used.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Notes executions. Told again, nothing is counted twice: of two ends the earlier
    /// one holds.
    async fn execution_record(&self, executions: &[Execution]) -> Result<()>;
    /// Executions without an end, the oldest first, that started after `after`.
    async fn execution_list_open(
        &self,
        after: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<OpenExecution>>;
    /// Notes since when no node has the sandbox, or that one has it again. What has an
    /// end stays as it is.
    async fn execution_set_missing(
        &self,
        sandbox: &SandboxId,
        started_at: DateTime<Utc>,
        since: Option<DateTime<Utc>>,
    ) -> Result<()>;
    /// What each team used, or one of them; those that used nothing are left out.
    async fn usage_by_team(&self, span: Span, team: Option<TeamId>)
    -> Result<Vec<(TeamId, Usage)>>;
    /// What a team's sandboxes used, by their ids, from the one after `after`.
    async fn usage_by_sandbox(
        &self,
        span: Span,
        team: TeamId,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<(SandboxId, Usage)>>;
    /// A team's starts and ends, in steps of so many milliseconds, at least 1.
    async fn team_load(&self, span: Span, team: TeamId, step_ms: u32) -> Result<Load>;
    /// When most sandboxes of a team ran at the same time, and how many; `None` where none
    /// did.
    async fn team_peak(&self, span: Span, team: TeamId) -> Result<Option<(DateTime<Utc>, u64)>>;
    /// Deletes a bounded number of executions that ended before a time; answers how many.
    async fn execution_prune(&self, before: DateTime<Utc>) -> Result<u64>;
}
