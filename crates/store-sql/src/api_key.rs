//! API keys.

use crate::row::{Record as _, records, returned};
use crate::{Database, Session, SqlStore, Statement, conflict, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::TeamId;
use hearth_store::{ApiKey, ApiKeyStore, NewApiKey, Result, Team, TeamStore as _};
use uuid::Uuid;

fn insertion(key: NewApiKey) -> Statement {
    let grant = key.grant;
    let scopes: Vec<&str> = grant.scopes.iter().map(|scope| scope.as_str()).collect();
    let networks: Vec<String> = grant.networks.iter().map(ToString::to_string).collect();
    Statement::new(
        "INSERT INTO api_keys (id, team_id, name, hash, prefix, value_length, mask_first,
            mask_last, created_at, scopes, read_only, expires_at, networks)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING *",
    )
    .text(key.id)
    .text(key.team_id)
    .text(key.name)
    .text(key.hash)
    .text(key.mask.prefix)
    .number(key.mask.value_length)
    .text(key.mask.first)
    .text(key.mask.last)
    .number(millis(key.created_at))
    .text(scopes.join(","))
    .number(grant.read_only)
    .number_option(grant.expires_at.map(millis))
    .text(networks.join(","))
}

#[async_trait]
impl<D: Database> ApiKeyStore for SqlStore<D> {
    async fn api_key_create(&self, key: NewApiKey) -> Result<ApiKey> {
        let row = self.database.row(insertion(key)).await;
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

    async fn api_key_rename(&self, team: TeamId, id: Uuid, name: &str) -> Result<bool> {
        let update = Statement::new(
            "UPDATE api_keys SET name = $1 WHERE id = $2 AND team_id = $3 AND revoked_at IS NULL",
        )
        .text(name)
        .text(id)
        .text(team);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn api_key_replace(
        &self,
        old: Uuid,
        old_until: DateTime<Utc>,
        new: NewApiKey,
    ) -> Result<Option<ApiKey>> {
        let mut session = self.database.begin().await?;
        let end = Statement::new(
            "UPDATE api_keys SET expires_at = CASE
                WHEN expires_at IS NULL OR expires_at > $1 THEN $1 ELSE expires_at END
             WHERE id = $2 AND team_id = $3 AND revoked_at IS NULL",
        )
        .number(millis(old_until))
        .text(old)
        .text(new.team_id);
        if session.execute(end).await? == 0 {
            return Ok(None);
        }
        let row = session.row(insertion(new)).await;
        let made = returned(row.map_err(conflict("the API key"))?.as_ref())?;
        session.commit().await?;
        Ok(Some(made))
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

    async fn api_keys_changed(&self) -> Result<()> {
        self.database.keys_changed().await
    }

    async fn api_key_touch(&self, id: Uuid, now: DateTime<Utc>) -> Result<()> {
        let update = Statement::new("UPDATE api_keys SET last_used_at = $1 WHERE id = $2")
            .number(millis(now))
            .text(id);
        self.database.execute(update).await.map(drop)
    }
}
