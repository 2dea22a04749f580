//! The SQLite backend: one file, its owner alone may read it, WAL so that
//! readers do not wait for the writer.
//!
//! Writes take SQLite's one write lock at their start (`BEGIN IMMEDIATE`), so a
//! transaction that has read never fails when it comes to write; whoever waits
//! for the lock gives up after [`BUSY_TIMEOUT`].

mod idempotency;
mod key;
mod row;
mod snapshot;
mod team;
mod template;
mod template_build;

use crate::{
    ApiKey, Build, BuildStatus, Error, IdempotencyClaim, IdempotencyRequest, NewApiKey, NewBuild,
    NewSnapshot, NewTeam, NewTemplate, Result, Snapshot, Store, TagAssignment, Team, TeamLimits,
    Template, TemplateAlias,
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// How long a statement waits for another one's write lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u32 = 4;
/// How long a caller waits for one of the connections.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite");

#[derive(Debug, Clone)]
pub struct SqliteStore {
    pool: SqlitePool,
}

impl SqliteStore {
    /// Opens the database file at `path`, making it (mode 0600) when there is
    /// none, and brings it to the present schema.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        restrict(path).map_err(|source| Error::Open {
            path: path.display().to_string(),
            source,
        })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // A power cut must not lose a key that was shown to its owner.
            .synchronous(SqliteSynchronous::Full);
        Self::connect(options, MAX_CONNECTIONS).await
    }

    /// A database that lives as long as this value, for tests.
    pub async fn in_memory() -> Result<Self> {
        // Each connection to an in-memory database has one of its own.
        Self::connect(SqliteConnectOptions::new().in_memory(true), 1).await
    }

    async fn connect(options: SqliteConnectOptions, connections: u32) -> Result<Self> {
        let options = options.foreign_keys(true).busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(connections)
            // No connection beside the first one while that makes the file: changing the
            // journal's mode waits for nobody, whatever the busy timeout says.
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        MIGRATIONS
            .run(&pool)
            .await
            .map_err(|error| Error::Migrate(Box::new(error)))?;
        Ok(Self { pool })
    }

    /// Waits for running statements and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// Makes sure that the file exists and only its owner can use it. SQLite gives
/// its side files the mode of the main one.
fn restrict(path: &Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o177 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if let Some(database) = error.as_database_error() {
            if database.is_unique_violation() {
                return Self::Conflict("the record");
            }
            if database.is_foreign_key_violation() {
                return Self::Dangling;
            }
            // SQLITE_FULL.
            if database.code().as_deref() == Some("13") {
                return Self::Full;
            }
        }
        Self::Backend(Box::new(error))
    }
}

/// Names what was taken, where a statement can only conflict over one thing.
fn conflict(what: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| match Error::from(error) {
        Error::Conflict(_) => Error::Conflict(what),
        other => other,
    }
}

fn millis(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis()
}

#[async_trait]
impl Store for SqliteStore {
    async fn team_create(&self, team: NewTeam) -> Result<Team> {
        team::create(self, team).await
    }
    async fn team_list(&self) -> Result<Vec<Team>> {
        team::list(self).await
    }
    async fn team_by_slug(&self, slug: &str) -> Result<Option<Team>> {
        team::by_slug(self, slug).await
    }
    async fn team(&self, id: TeamId) -> Result<Option<Team>> {
        team::by_id(self, id).await
    }
    async fn team_set_limits(&self, id: TeamId, limits: TeamLimits) -> Result<bool> {
        team::set_limits(self, id, limits).await
    }
    async fn team_set_standing(
        &self,
        id: TeamId,
        banned: bool,
        blocked_reason: Option<&str>,
    ) -> Result<bool> {
        team::set_standing(self, id, banned, blocked_reason).await
    }

    async fn api_key_create(&self, key: NewApiKey) -> Result<ApiKey> {
        key::create(self, key).await
    }
    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<(ApiKey, Team)>> {
        key::by_hash(self, hash).await
    }
    async fn api_key_list(&self, team: TeamId) -> Result<Vec<ApiKey>> {
        key::list(self, team).await
    }
    async fn api_key_revoke(&self, team: TeamId, id: Uuid, now: DateTime<Utc>) -> Result<bool> {
        key::revoke(self, team, id, now).await
    }
    async fn api_key_touch(&self, id: Uuid, now: DateTime<Utc>) -> Result<()> {
        key::touch(self, id, now).await
    }

    async fn template_create(&self, template: NewTemplate) -> Result<Template> {
        template::create(self, template).await
    }
    async fn template(&self, id: &TemplateId) -> Result<Option<Template>> {
        template::by_id(self, id).await
    }
    async fn template_by_alias(&self, namespace: &str, alias: &str) -> Result<Option<Template>> {
        template::by_alias(self, namespace, alias).await
    }
    async fn template_list(&self, team: TeamId) -> Result<Vec<Template>> {
        template::list(self, team).await
    }
    async fn template_list_default(&self) -> Result<Vec<Template>> {
        template::list_default(self).await
    }
    async fn template_set_public(
        &self,
        id: &TemplateId,
        public: bool,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        template::set_public(self, id, public, now).await
    }
    async fn template_delete(&self, id: &TemplateId) -> Result<bool> {
        template::delete(self, id).await
    }
    async fn template_spawned(&self, id: &TemplateId, now: DateTime<Utc>) -> Result<()> {
        template::spawned(self, id, now).await
    }

    async fn alias_create(
        &self,
        template: &TemplateId,
        namespace: &str,
        alias: &str,
    ) -> Result<()> {
        template::alias_create(self, template, namespace, alias).await
    }
    async fn alias_list(&self, template: &TemplateId) -> Result<Vec<TemplateAlias>> {
        template::alias_list(self, template).await
    }

    async fn build_create(&self, build: NewBuild) -> Result<Build> {
        template::build_create(self, build).await
    }
    async fn build(&self, id: BuildId) -> Result<Option<Build>> {
        template::build(self, id).await
    }
    async fn build_set_status(
        &self,
        id: BuildId,
        status: BuildStatus,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        template::build_set_status(self, id, status, now).await
    }
    async fn build_list(
        &self,
        template: &TemplateId,
        before: Option<(DateTime<Utc>, BuildId)>,
        limit: u32,
    ) -> Result<Vec<Build>> {
        template::build_list(self, template, before, limit).await
    }
    async fn build_count(&self, template: &TemplateId) -> Result<u32> {
        template::build_count(self, template).await
    }

    async fn tag_assign(
        &self,
        template: &TemplateId,
        tag: &str,
        build: BuildId,
        now: DateTime<Utc>,
    ) -> Result<()> {
        template::tag_assign(self, template, tag, build, now).await
    }
    async fn tag_build(&self, template: &TemplateId, tag: &str) -> Result<Option<Build>> {
        template::tag_build(self, template, tag).await
    }
    async fn tag_list(&self, template: &TemplateId) -> Result<Vec<TagAssignment>> {
        template::tag_list(self, template).await
    }
    async fn tag_delete(&self, template: &TemplateId, tag: &str) -> Result<bool> {
        template::tag_delete(self, template, tag).await
    }

    async fn snapshot_create(&self, snapshot: NewSnapshot) -> Result<()> {
        snapshot::create(self, snapshot).await
    }
    async fn snapshot_list(
        &self,
        team: TeamId,
        sandbox: Option<&SandboxId>,
        template: Option<&TemplateId>,
    ) -> Result<Vec<Snapshot>> {
        snapshot::list(self, team, sandbox, template).await
    }
    async fn snapshot_source(&self, build: BuildId) -> Result<Option<SandboxId>> {
        snapshot::source(self, build).await
    }
    async fn template_is_snapshot(&self, template: &TemplateId) -> Result<bool> {
        snapshot::is_snapshot(self, template).await
    }

    async fn discard_add(&self, build: BuildId) -> Result<()> {
        snapshot::discard_add(self, build).await
    }
    async fn discard_remove(&self, build: BuildId) -> Result<()> {
        snapshot::discard_remove(self, build).await
    }
    async fn discard_list(&self) -> Result<Vec<BuildId>> {
        snapshot::discard_list(self).await
    }

    async fn idempotency_claim(&self, request: IdempotencyRequest) -> Result<IdempotencyClaim> {
        idempotency::claim(self, request).await
    }
    async fn idempotency_finish(
        &self,
        team: TeamId,
        key: &str,
        sandbox: &SandboxId,
        outcome: &str,
    ) -> Result<()> {
        idempotency::finish(self, team, key, sandbox, outcome).await
    }
    async fn idempotency_release(
        &self,
        team: TeamId,
        key: &str,
        sandbox: &SandboxId,
    ) -> Result<()> {
        idempotency::release(self, team, key, sandbox).await
    }
    async fn idempotency_yield(&self, team: TeamId, key: &str, sandbox: &SandboxId) -> Result<()> {
        idempotency::give_up_lease(self, team, key, sandbox).await
    }
    async fn idempotency_end_leases(&self) -> Result<()> {
        idempotency::end_leases(self).await
    }
}
