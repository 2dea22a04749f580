//! API keys.

use crate::row::{Record as _, records, returned};
use crate::{Database, SqlStore, Statement, conflict, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use hearth_store::{ApiKey, ApiKeyStore, NewApiKey, Result, Team, TeamStore as _};
use uuid::Uuid;

#[async_trait]
impl<D: Database> ApiKeyStore for SqlStore<D> {
    async fn api_key_create(&self, key: NewApiKey) -> Result<ApiKey> {
        let insert = Statement::new(
            "INSERT INTO api_keys (id, team_id, name, hash, prefix, value_length, mask_first,
                mask_last, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *",
        )
        .text(key.id)
        .text(key.team_id)
        .text(key.name)
        .text(key.hash)
        .text(key.mask.prefix)
        .number(key.mask.value_length)
        .text(key.mask.first)
        .text(key.mask.last)
        .number(millis(key.created_at));
        let row = self.database.row(insert).await;
        returned(row.map_err(conflict("the API key"))?.as_ref())
    }

    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<(ApiKey, Team)>> {
        let query = Statement::new("SELECT * FROM api_keys WHERE hash = $1 AND revoked_at IS NULL")
            .text(hash);
        let Some(row) = self.database.row(query).await? else {
            return Ok(None);
        };
        let key = ApiKey::read(&row)?;
        // The foreign key holds a key's team in place, so there is one.
        let team = self.team(key.team_id).await?;
        Ok(team.map(|team| (key, team)))
    }

    async fn api_key_list(&self, team: TeamId) -> Result<Vec<ApiKey>> {
        let query = Statement::new(
            "SELECT * FROM api_keys WHERE team_id = $1 AND revoked_at IS NULL
             ORDER BY created_at, id",
        )
        .text(team);
        records(&self.database.rows(query).await?)
    }

    async fn api_key_revoke(&self, team: TeamId, id: Uuid, now: DateTime<Utc>) -> Result<bool> {
        let update = Statement::new(
            "UPDATE api_keys SET revoked_at = $1
             WHERE id = $2 AND team_id = $3 AND revoked_at IS NULL",
        )
        .number(millis(now))
        .text(id)
        .text(team);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn api_key_touch(&self, id: Uuid, now: DateTime<Utc>) -> Result<()> {
        let update = Statement::new("UPDATE api_keys SET last_used_at = $1 WHERE id = $2")
            .number(millis(now))
            .text(id);
        self.database.execute(update).await.map(drop)
    }
}
