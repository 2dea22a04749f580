//! What Hearth remembers: teams, API keys, templates with their builds and tags,
//! and the outcomes of idempotent requests. Which sandboxes run is not here: the
//! nodes know that.
//!
//! [`Store`] is the port; [`sqlite::SqliteStore`] is the backend for one machine.
//! Every method is one transaction: it happens whole or not at all, and it is on
//! disk when it returns. Times come from the caller, so that the store has no
//! clock of its own. The suite in `tests/backend.rs` says what any backend must
//! do.

#![forbid(unsafe_code)]

mod record;
pub mod sqlite;
mod template_build;

pub use record::{
    ApiKey, Build, BuildStatus, IdempotencyClaim, IdempotencyRequest, KeyMask, NewApiKey, NewBuild,
    NewSnapshot, NewTeam, NewTemplate, Snapshot, TagAssignment, Team, TeamLimits, Template,
    TemplateAlias,
};

pub use template_build::{BuildRequest, NewBuildRequest, TemplateBuildStore};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use uuid::Uuid;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name or id is taken. Nothing was changed.
    #[error("{0} already exists")]
    Conflict(&'static str),
    /// A row refers to something that is not there. Nothing was changed.
    #[error("a referenced record does not exist")]
    Dangling,
    /// No space left: nothing was changed.
    #[error("no space left for the database")]
    Full,
    #[error("a stored {what} is malformed: {text:?}")]
    Corrupt { what: &'static str, text: String },
    #[error("open the database {path}")]
    Open {
        path: String,
        source: std::io::Error,
    },
    #[error("bring the database to the present schema")]
    Migrate(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("use the database")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

pub type Result<T> = std::result::Result<T, Error>;

/// The port to whatever keeps Hearth's records.
#[async_trait]
pub trait Store: TemplateBuildStore + Send + Sync + 'static {
    /// Errors: [`Error::Conflict`] when the id or slug is taken.
    async fn team_create(&self, team: NewTeam) -> Result<Team>;
    /// All teams, by their slugs.
    async fn team_list(&self) -> Result<Vec<Team>>;
    async fn team_by_slug(&self, slug: &str) -> Result<Option<Team>>;
    async fn team(&self, id: TeamId) -> Result<Option<Team>>;
    /// Answers whether the team exists.
    async fn team_set_limits(&self, id: TeamId, limits: TeamLimits) -> Result<bool>;
    /// Bans or unbans, blocks (with a reason) or unblocks a team.
    async fn team_set_standing(
        &self,
        id: TeamId,
        banned: bool,
        blocked_reason: Option<&str>,
    ) -> Result<bool>;

    /// Errors: [`Error::Conflict`] when the hash is known.
    async fn api_key_create(&self, key: NewApiKey) -> Result<ApiKey>;
    /// The unrevoked key with this hash, and its team.
    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<(ApiKey, Team)>>;
    /// A team's unrevoked keys, oldest first.
    async fn api_key_list(&self, team: TeamId) -> Result<Vec<ApiKey>>;
    /// Answers whether there was such an unrevoked key of the team.
    async fn api_key_revoke(&self, team: TeamId, id: Uuid, now: DateTime<Utc>) -> Result<bool>;
    async fn api_key_touch(&self, id: Uuid, now: DateTime<Utc>) -> Result<()>;

    /// Errors: [`Error::Conflict`] when the id or one of the aliases is taken.
    async fn template_create(&self, template: NewTemplate) -> Result<Template>;
    async fn template(&self, id: &TemplateId) -> Result<Option<Template>>;
    /// `namespace` is empty for names that need none.
    async fn template_by_alias(&self, namespace: &str, alias: &str) -> Result<Option<Template>>;
    /// A team's templates, newest first; snapshots are not among them.
    async fn template_list(&self, team: TeamId) -> Result<Vec<Template>>;
    /// The templates that every team sees, newest first.
    async fn template_list_default(&self) -> Result<Vec<Template>>;
    async fn template_set_public(
        &self,
        id: &TemplateId,
        public: bool,
        now: DateTime<Utc>,
    ) -> Result<bool>;
    /// Deletes a template with its aliases, builds and tags. The builds are
    /// discarded: see [`Store::discard_add`].
    async fn template_delete(&self, id: &TemplateId) -> Result<bool>;
    /// Counts a start of a sandbox from the template.
    async fn template_spawned(&self, id: &TemplateId, now: DateTime<Utc>) -> Result<()>;

    /// Errors: [`Error::Conflict`] when the alias is taken.
    async fn alias_create(&self, template: &TemplateId, namespace: &str, alias: &str)
    -> Result<()>;
    async fn alias_list(&self, template: &TemplateId) -> Result<Vec<TemplateAlias>>;

    /// Errors: [`Error::Conflict`] when the id is taken.
    async fn build_create(&self, build: NewBuild) -> Result<Build>;
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

    /// Records a snapshot: its template where that is new, the build, its tag. The
    /// build is no longer discarded. Errors: [`Error::Conflict`] when the id or the
    /// alias is taken, [`Error::Dangling`] when the template is gone.
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

    /// Notes that a node may hold a build that nothing here refers to.
    async fn discard_add(&self, build: BuildId) -> Result<()>;
    /// The build is gone from the nodes.
    async fn discard_remove(&self, build: BuildId) -> Result<()>;
    async fn discard_list(&self) -> Result<Vec<BuildId>>;

    /// Claims an idempotency key, or says what became of it. Expired records
    /// are dropped on the way.
    async fn idempotency_claim(&self, request: IdempotencyRequest) -> Result<IdempotencyClaim>;
    /// Records the outcome of the claim that `sandbox` was made under.
    async fn idempotency_finish(
        &self,
        team: TeamId,
        key: &str,
        sandbox: &SandboxId,
        outcome: &str,
    ) -> Result<()>;
    /// Gives up an unfinished claim, so that the key can be used afresh.
    async fn idempotency_release(&self, team: TeamId, key: &str, sandbox: &SandboxId)
    -> Result<()>;
    /// Ends the lease of an unfinished claim but keeps the claim: the next one
    /// takes it over.
    async fn idempotency_yield(&self, team: TeamId, key: &str, sandbox: &SandboxId) -> Result<()>;
    /// Ends the leases of all unfinished claims. Only for a process that knows
    /// that no other one uses the store.
    async fn idempotency_end_leases(&self) -> Result<()>;
}
