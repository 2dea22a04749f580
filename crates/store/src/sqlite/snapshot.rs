//! Snapshots, and builds that are to be discarded.

use super::row::{SnapshotRow, parse, records};
use super::template::{build_insert, insert, tag_insert};
use super::{SqliteStore, millis};
use crate::{NewSnapshot, Result, Snapshot};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};

pub(super) async fn create(store: &SqliteStore, snapshot: NewSnapshot) -> Result<()> {
    let NewSnapshot {
        template,
        build,
        team_id,
        sandbox_id,
        tag,
    } = snapshot;
    let mut transaction = store.write().await?;
    if let Some(template) = template {
        insert(&mut transaction, template).await?;
    }
    let (id, template_id, now) = (build.id, build.template_id.clone(), build.created_at);
    build_insert(&mut transaction, build).await?;
    tag_insert(&mut transaction, &template_id, &tag, id, now).await?;
    sqlx::query(
        "INSERT INTO snapshots (build_id, template_id, team_id, sandbox_id, created_at)
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(id.to_string())
    .bind(template_id.as_str())
    .bind(team_id.to_string())
    .bind(sandbox_id.as_str())
    .bind(millis(now))
    .execute(&mut *transaction)
    .await?;
    sqlx::query("DELETE FROM build_discards WHERE build_id = ?")
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

pub(super) async fn list(
    store: &SqliteStore,
    team: TeamId,
    sandbox: Option<&SandboxId>,
    template: Option<&TemplateId>,
) -> Result<Vec<Snapshot>> {
    let rows: Vec<SnapshotRow> = sqlx::query_as(
        "SELECT snapshots.template_id, snapshots.build_id, snapshots.sandbox_id,
            build_assignments.tag, build_assignments.created_at
         FROM build_assignments
         JOIN snapshots ON snapshots.build_id = build_assignments.build_id
         WHERE snapshots.team_id = ?1
            AND (?2 IS NULL OR snapshots.sandbox_id = ?2)
            AND (?3 IS NULL OR snapshots.template_id = ?3)
            AND build_assignments.sequence IN (
                SELECT max(sequence) FROM build_assignments AS latest
                WHERE latest.template_id = snapshots.template_id GROUP BY latest.tag)
         ORDER BY build_assignments.created_at DESC, build_assignments.sequence DESC",
    )
    .bind(team.to_string())
    .bind(sandbox.map(SandboxId::as_str))
    .bind(template.map(TemplateId::as_str))
    .fetch_all(&store.pool)
    .await?;
    records(rows)
}

pub(super) async fn source(store: &SqliteStore, build: BuildId) -> Result<Option<SandboxId>> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT sandbox_id FROM snapshots WHERE build_id = ?")
            .bind(build.to_string())
            .fetch_optional(&store.pool)
            .await?;
    row.map(|(id,)| parse("sandbox id", id)).transpose()
}

pub(super) async fn is_snapshot(store: &SqliteStore, template: &TemplateId) -> Result<bool> {
    let (found,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM snapshots WHERE template_id = ?)")
            .bind(template.as_str())
            .fetch_one(&store.pool)
            .await?;
    Ok(found)
}

pub(super) async fn discard_add(store: &SqliteStore, build: BuildId) -> Result<()> {
    sqlx::query("INSERT OR IGNORE INTO build_discards (build_id) VALUES (?)")
        .bind(build.to_string())
        .execute(&store.pool)
        .await?;
    Ok(())
}

pub(super) async fn discard_remove(store: &SqliteStore, build: BuildId) -> Result<()> {
    sqlx::query("DELETE FROM build_discards WHERE build_id = ?")
        .bind(build.to_string())
        .execute(&store.pool)
        .await?;
    Ok(())
}

pub(super) async fn discard_list(store: &SqliteStore) -> Result<Vec<BuildId>> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT build_id FROM build_discards ORDER BY build_id")
            .fetch_all(&store.pool)
            .await?;
    rows.into_iter()
        .map(|(id,)| parse("build id", id))
        .collect()
}
