//! Teams.

use super::row::TeamRow;
use super::{SqliteStore, conflict, millis};
use crate::{NewTeam, Result, Team, TeamLimits};
use hearth_ids::TeamId;

pub(super) async fn create(store: &SqliteStore, team: NewTeam) -> Result<Team> {
    let row: TeamRow = sqlx::query_as(
        "INSERT INTO teams (id, slug, name, max_concurrent_sandboxes, max_length_hours,
            max_vcpus, max_memory_mib, max_disk_mib, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
    )
    .bind(team.id.to_string())
    .bind(team.slug)
    .bind(team.name)
    .bind(team.limits.max_concurrent_sandboxes)
    .bind(team.limits.max_length_hours)
    .bind(team.limits.max_vcpus)
    .bind(team.limits.max_memory_mib)
    .bind(team.limits.max_disk_mib)
    .bind(millis(team.created_at))
    .fetch_one(&store.pool)
    .await
    .map_err(conflict("the team"))?;
    row.try_into()
}

pub(super) async fn list(store: &SqliteStore) -> Result<Vec<Team>> {
    let rows: Vec<TeamRow> = sqlx::query_as("SELECT * FROM teams ORDER BY slug")
        .fetch_all(&store.pool)
        .await?;
    rows.into_iter().map(Team::try_from).collect()
}

pub(super) async fn by_slug(store: &SqliteStore, slug: &str) -> Result<Option<Team>> {
    let row: Option<TeamRow> = sqlx::query_as("SELECT * FROM teams WHERE slug = ?")
        .bind(slug)
        .fetch_optional(&store.pool)
        .await?;
    row.map(Team::try_from).transpose()
}

pub(super) async fn by_id(store: &SqliteStore, id: TeamId) -> Result<Option<Team>> {
    let row: Option<TeamRow> = sqlx::query_as("SELECT * FROM teams WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(&store.pool)
        .await?;
    row.map(Team::try_from).transpose()
}

pub(super) async fn set_limits(
    store: &SqliteStore,
    id: TeamId,
    limits: TeamLimits,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE teams SET max_concurrent_sandboxes = ?, max_length_hours = ?, max_vcpus = ?,
            max_memory_mib = ?, max_disk_mib = ? WHERE id = ?",
    )
    .bind(limits.max_concurrent_sandboxes)
    .bind(limits.max_length_hours)
    .bind(limits.max_vcpus)
    .bind(limits.max_memory_mib)
    .bind(limits.max_disk_mib)
    .bind(id.to_string())
    .execute(&store.pool)
    .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn set_standing(
    store: &SqliteStore,
    id: TeamId,
    banned: bool,
    blocked_reason: Option<&str>,
) -> Result<bool> {
    let done = sqlx::query("UPDATE teams SET banned = ?, blocked_reason = ? WHERE id = ?")
        .bind(banned)
        .bind(blocked_reason)
        .bind(id.to_string())
        .execute(&store.pool)
        .await?;
    Ok(done.rows_affected() > 0)
}
