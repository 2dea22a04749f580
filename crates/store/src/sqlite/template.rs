//! Templates, aliases, builds and tags.

use super::row::{AliasRow, BuildRow, TagRow, TemplateRow, records, status_text};
use super::{SqliteStore, conflict, millis};
use crate::{
    Build, BuildStatus, NewBuild, NewTemplate, Result, TagAssignment, Template, TemplateAlias,
};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TeamId, TemplateId};
use sqlx::SqliteConnection;

pub(super) async fn create(store: &SqliteStore, template: NewTemplate) -> Result<Template> {
    let mut transaction = store.write().await?;
    let row = insert(&mut transaction, template).await?;
    transaction.commit().await?;
    row.try_into()
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    template: NewTemplate,
) -> Result<TemplateRow> {
    let row: TemplateRow = sqlx::query_as(
        "INSERT INTO templates (id, team_id, public, is_default, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
    )
    .bind(template.id.as_str())
    .bind(template.team_id.to_string())
    .bind(template.public)
    .bind(template.is_default)
    .bind(millis(template.created_at))
    .bind(millis(template.created_at))
    .fetch_one(&mut *connection)
    .await
    .map_err(conflict("the template"))?;
    for alias in &template.aliases {
        alias_insert(connection, &template.id, &alias.namespace, &alias.alias).await?;
    }
    Ok(row)
}

async fn alias_insert(
    connection: &mut SqliteConnection,
    template: &TemplateId,
    namespace: &str,
    alias: &str,
) -> Result<()> {
    sqlx::query("INSERT INTO template_aliases (namespace, alias, template_id) VALUES (?, ?, ?)")
        .bind(namespace)
        .bind(alias)
        .bind(template.as_str())
        .execute(connection)
        .await
        .map_err(conflict("the template alias"))?;
    Ok(())
}

pub(super) async fn by_id(store: &SqliteStore, id: &TemplateId) -> Result<Option<Template>> {
    let row: Option<TemplateRow> = sqlx::query_as("SELECT * FROM templates WHERE id = ?")
        .bind(id.as_str())
        .fetch_optional(&store.pool)
        .await?;
    row.map(Template::try_from).transpose()
}

pub(super) async fn by_alias(
    store: &SqliteStore,
    namespace: &str,
    alias: &str,
) -> Result<Option<Template>> {
    let row: Option<TemplateRow> = sqlx::query_as(
        "SELECT templates.* FROM templates
         JOIN template_aliases ON template_aliases.template_id = templates.id
         WHERE template_aliases.namespace = ? AND template_aliases.alias = ?",
    )
    .bind(namespace)
    .bind(alias)
    .fetch_optional(&store.pool)
    .await?;
    row.map(Template::try_from).transpose()
}

pub(super) async fn list(store: &SqliteStore, team: TeamId) -> Result<Vec<Template>> {
    let rows: Vec<TemplateRow> = sqlx::query_as(
        "SELECT * FROM templates WHERE team_id = ?
            AND NOT EXISTS (SELECT 1 FROM snapshots WHERE template_id = templates.id)
         ORDER BY created_at DESC, id DESC",
    )
    .bind(team.to_string())
    .fetch_all(&store.pool)
    .await?;
    records(rows)
}

pub(super) async fn list_default(store: &SqliteStore) -> Result<Vec<Template>> {
    let rows: Vec<TemplateRow> = sqlx::query_as(
        "SELECT * FROM templates WHERE is_default = 1 ORDER BY created_at DESC, id DESC",
    )
    .fetch_all(&store.pool)
    .await?;
    records(rows)
}

pub(super) async fn set_public(
    store: &SqliteStore,
    id: &TemplateId,
    public: bool,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query("UPDATE templates SET public = ?, updated_at = ? WHERE id = ?")
        .bind(public)
        .bind(millis(now))
        .bind(id.as_str())
        .execute(&store.pool)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn delete(store: &SqliteStore, id: &TemplateId) -> Result<bool> {
    let mut transaction = store.write().await?;
    sqlx::query(
        "INSERT OR IGNORE INTO build_discards (build_id)
         SELECT id FROM builds WHERE template_id = ?",
    )
    .bind(id.as_str())
    .execute(&mut *transaction)
    .await?;
    let done = sqlx::query("DELETE FROM templates WHERE id = ?")
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn spawned(
    store: &SqliteStore,
    id: &TemplateId,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "UPDATE templates SET spawn_count = spawn_count + 1, last_spawned_at = ? WHERE id = ?",
    )
    .bind(millis(now))
    .bind(id.as_str())
    .execute(&store.pool)
    .await?;
    Ok(())
}

pub(super) async fn alias_create(
    store: &SqliteStore,
    template: &TemplateId,
    namespace: &str,
    alias: &str,
) -> Result<()> {
    let mut connection = store.pool.acquire().await?;
    alias_insert(&mut connection, template, namespace, alias).await
}

pub(super) async fn alias_list(
    store: &SqliteStore,
    template: &TemplateId,
) -> Result<Vec<TemplateAlias>> {
    let rows: Vec<AliasRow> = sqlx::query_as(
        "SELECT namespace, alias FROM template_aliases WHERE template_id = ?
         ORDER BY namespace, alias",
    )
    .bind(template.as_str())
    .fetch_all(&store.pool)
    .await?;
    Ok(rows.into_iter().map(TemplateAlias::from).collect())
}

pub(super) async fn build_create(store: &SqliteStore, build: NewBuild) -> Result<Build> {
    let mut connection = store.pool.acquire().await?;
    build_insert(&mut connection, build).await?.try_into()
}

pub(super) async fn build_insert(
    connection: &mut SqliteConnection,
    build: NewBuild,
) -> Result<BuildRow> {
    let created = millis(build.created_at);
    let row: BuildRow = sqlx::query_as(
        "INSERT INTO builds (id, template_id, status, vcpus, memory_mib, disk_mib, envd_version,
            created_at, updated_at, finished_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
    )
    .bind(build.id.to_string())
    .bind(build.template_id.as_str())
    .bind(status_text(build.status))
    .bind(build.vcpus)
    .bind(build.memory_mib)
    .bind(build.disk_mib)
    .bind(build.envd_version)
    .bind(created)
    .bind(created)
    .bind(finished(build.status).then_some(created))
    .fetch_one(connection)
    .await
    .map_err(conflict("the build"))?;
    Ok(row)
}

fn finished(status: BuildStatus) -> bool {
    matches!(status, BuildStatus::Ready | BuildStatus::Error)
}

pub(super) async fn build(store: &SqliteStore, id: BuildId) -> Result<Option<Build>> {
    let row: Option<BuildRow> = sqlx::query_as("SELECT * FROM builds WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(&store.pool)
        .await?;
    row.map(Build::try_from).transpose()
}

pub(super) async fn build_set_status(
    store: &SqliteStore,
    id: BuildId,
    status: BuildStatus,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done =
        sqlx::query("UPDATE builds SET status = ?, updated_at = ?, finished_at = ? WHERE id = ?")
            .bind(status_text(status))
            .bind(millis(now))
            .bind(finished(status).then_some(millis(now)))
            .bind(id.to_string())
            .execute(&store.pool)
            .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn build_list(
    store: &SqliteStore,
    template: &TemplateId,
    before: Option<(DateTime<Utc>, BuildId)>,
    limit: u32,
) -> Result<Vec<Build>> {
    let (time, id) = match before {
        Some((time, id)) => (millis(time), id.to_string()),
        None => (i64::MAX, String::new()),
    };
    let rows: Vec<BuildRow> = sqlx::query_as(
        "SELECT * FROM builds WHERE template_id = ? AND (created_at, id) < (?, ?)
         ORDER BY created_at DESC, id DESC LIMIT ?",
    )
    .bind(template.as_str())
    .bind(time)
    .bind(id)
    .bind(limit)
    .fetch_all(&store.pool)
    .await?;
    records(rows)
}

pub(super) async fn build_count(store: &SqliteStore, template: &TemplateId) -> Result<u32> {
    let (count,): (u32,) = sqlx::query_as("SELECT count(*) FROM builds WHERE template_id = ?")
        .bind(template.as_str())
        .fetch_one(&store.pool)
        .await?;
    Ok(count)
}

pub(super) async fn tag_assign(
    store: &SqliteStore,
    template: &TemplateId,
    tag: &str,
    build: BuildId,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut transaction = store.write().await?;
    tag_insert(&mut transaction, template, tag, build, now).await?;
    transaction.commit().await?;
    Ok(())
}

pub(super) async fn tag_insert(
    connection: &mut SqliteConnection,
    template: &TemplateId,
    tag: &str,
    build: BuildId,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO build_assignments (template_id, tag, build_id, created_at)
         VALUES (?, ?, ?, ?)",
    )
    .bind(template.as_str())
    .bind(tag)
    .bind(build.to_string())
    .bind(millis(now))
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE templates SET updated_at = ? WHERE id = ?")
        .bind(millis(now))
        .bind(template.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn tag_build(
    store: &SqliteStore,
    template: &TemplateId,
    tag: &str,
) -> Result<Option<Build>> {
    let row: Option<BuildRow> = sqlx::query_as(
        "SELECT builds.* FROM build_assignments
         JOIN builds ON builds.id = build_assignments.build_id
         WHERE build_assignments.template_id = ? AND build_assignments.tag = ?
         ORDER BY build_assignments.sequence DESC LIMIT 1",
    )
    .bind(template.as_str())
    .bind(tag)
    .fetch_optional(&store.pool)
    .await?;
    row.map(Build::try_from).transpose()
}

pub(super) async fn tag_list(
    store: &SqliteStore,
    template: &TemplateId,
) -> Result<Vec<TagAssignment>> {
    let rows: Vec<TagRow> = sqlx::query_as(
        "SELECT tag, build_id, created_at FROM build_assignments
         WHERE sequence IN (SELECT max(sequence) FROM build_assignments
            WHERE template_id = ? GROUP BY tag)
         ORDER BY tag",
    )
    .bind(template.as_str())
    .fetch_all(&store.pool)
    .await?;
    records(rows)
}

pub(super) async fn tag_delete(
    store: &SqliteStore,
    template: &TemplateId,
    tag: &str,
) -> Result<bool> {
    let done = sqlx::query("DELETE FROM build_assignments WHERE template_id = ? AND tag = ?")
        .bind(template.as_str())
        .bind(tag)
        .execute(&store.pool)
        .await?;
    Ok(done.rows_affected() > 0)
}
