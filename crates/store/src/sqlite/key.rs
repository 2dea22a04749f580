//! API keys.

use super::row::{ApiKeyRow, records};
use super::{SqliteStore, conflict, millis, team};
use crate::{ApiKey, NewApiKey, Result, Team};
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use uuid::Uuid;

pub(super) async fn create(store: &SqliteStore, key: NewApiKey) -> Result<ApiKey> {
    let row: ApiKeyRow = sqlx::query_as(
        "INSERT INTO api_keys (id, team_id, name, hash, prefix, value_length, mask_first,
            mask_last, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
    )
    .bind(key.id.to_string())
    .bind(key.team_id.to_string())
    .bind(key.name)
    .bind(key.hash)
    .bind(key.mask.prefix)
    .bind(key.mask.value_length)
    .bind(key.mask.first)
    .bind(key.mask.last)
    .bind(millis(key.created_at))
    .fetch_one(&store.pool)
    .await
    .map_err(conflict("the API key"))?;
    row.try_into()
}

pub(super) async fn by_hash(store: &SqliteStore, hash: &str) -> Result<Option<(ApiKey, Team)>> {
    let row: Option<ApiKeyRow> =
        sqlx::query_as("SELECT * FROM api_keys WHERE hash = ? AND revoked_at IS NULL")
            .bind(hash)
            .fetch_optional(&store.pool)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let key = ApiKey::try_from(row)?;
    // The foreign key holds a key's team in place, so there is one.
    Ok(team::by_id(store, key.team_id)
        .await?
        .map(|team| (key, team)))
}

pub(super) async fn list(store: &SqliteStore, team: TeamId) -> Result<Vec<ApiKey>> {
    let rows: Vec<ApiKeyRow> = sqlx::query_as(
        "SELECT * FROM api_keys WHERE team_id = ? AND revoked_at IS NULL
         ORDER BY created_at, id",
    )
    .bind(team.to_string())
    .fetch_all(&store.pool)
    .await?;
    records(rows)
}

pub(super) async fn revoke(
    store: &SqliteStore,
    team: TeamId,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND team_id = ? AND revoked_at IS NULL",
    )
    .bind(millis(now))
    .bind(id.to_string())
    .bind(team.to_string())
    .execute(&store.pool)
    .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn touch(store: &SqliteStore, id: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("UPDATE api_keys SET last_used_at = ? WHERE id = ?")
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&store.pool)
        .await?;
    Ok(())
}
