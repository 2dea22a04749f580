//! Webhooks.

use crate::row::{Record, parse, record, records, time, time_option};
use crate::{Columns, Database, Session, SqlStore, Statement, millis};
use async_trait::async_trait;
use hearth_ids::TeamId;
use hearth_store::{NewWebhook, Result, Webhook, WebhookChange, WebhookStore};
use uuid::Uuid;

impl Record for Webhook {
    fn read(row: &impl Columns) -> Result<Self> {
        let events = row.text("events")?;
        Ok(Self {
            id: parse("webhook id", row.text("id")?)?,
            team_id: parse("team id", row.text("team_id")?)?,
            name: row.text("name")?,
            url: row.text("url")?,
            events: events.split(',').map(str::to_owned).collect(),
            sealed_secret: row.text("sealed_secret")?,
            enabled: row.number("enabled")? != 0,
            disabled_reason: row.text_option("disabled_reason")?,
            failing_since: time_option(row, "failing_since")?,
            created_at: time(row, "created_at")?,
        })
    }
}

/// Ends the deliveries to a webhook that wait.
pub(crate) async fn end_pending(session: &mut impl Session, id: Uuid) -> Result<()> {
    let end = Statement::new(
        "UPDATE deliveries SET state = 'failed' WHERE webhook_id = $1 AND state = 'pending'",
    )
    .text(id);
    session.execute(end).await.map(drop)
}

/// Rows that one transaction deletes: others wait for it no longer than for that.
pub(crate) const DELETED_AT_ONCE: u32 = 1000;

#[async_trait]
impl<D: Database> WebhookStore for SqlStore<D> {
    async fn webhook_create(&self, new: NewWebhook, most: u32) -> Result<Option<Webhook>> {
        let mut session = self.database.begin().await?;
        // Whoever counts has the team's row until the end.
        let lock = format!("SELECT id FROM teams WHERE id = $1{}", D::LOCK_ROWS);
        let team = session.row(Statement::new(lock).text(new.team_id)).await?;
        if team.is_none() {
            return Ok(None);
        }
        let insert = Statement::new(
            "INSERT INTO webhooks (id, team_id, name, url, events, sealed_secret, enabled,
                created_at)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8
             WHERE (SELECT count(*) FROM webhooks WHERE team_id = $2) < $9
             RETURNING *",
        )
        .text(new.id)
        .text(new.team_id)
        .text(new.name)
        .text(new.url)
        .text(new.events.join(","))
        .text(new.sealed_secret)
        .number(new.enabled)
        .number(millis(new.created_at))
        .number(most);
        let made = record(session.row(insert).await?.as_ref())?;
        session.commit().await?;
        Ok(made)
    }

    async fn webhook_list(&self, team: TeamId) -> Result<Vec<Webhook>> {
        let query =
            Statement::new("SELECT * FROM webhooks WHERE team_id = $1 ORDER BY created_at, id")
                .text(team);
        records(&self.database.rows(query).await?)
    }

    async fn webhook(&self, team: TeamId, id: Uuid) -> Result<Option<Webhook>> {
        let query = Statement::new("SELECT * FROM webhooks WHERE id = $1 AND team_id = $2")
            .text(id)
            .text(team);
        record(self.database.row(query).await?.as_ref())
    }

    async fn webhook_update(
        &self,
        team: TeamId,
        id: Uuid,
        change: WebhookChange,
    ) -> Result<Option<Webhook>> {
        let mut session = self.database.begin().await?;
        let update = Statement::new(
            "UPDATE webhooks SET name = coalesce($1, name), url = coalesce($2, url),
                events = coalesce($3, events), sealed_secret = coalesce($4, sealed_secret),
                disabled_reason = CASE WHEN $5 = 1 THEN NULL ELSE disabled_reason END,
                failing_since = CASE WHEN $5 = 1 AND enabled = 0 THEN NULL
                    ELSE failing_since END,
                enabled = coalesce($5, enabled)
             WHERE id = $6 AND team_id = $7 RETURNING *",
        )
        .text_option(change.name)
        .text_option(change.url)
        .text_option(change.events.map(|events| events.join(",")))
        .text_option(change.sealed_secret)
        .number_option(change.enabled.map(i64::from))
        .text(id)
        .text(team);
        let changed = record(session.row(update).await?.as_ref())?;
        if changed.is_some() && change.enabled == Some(false) {
            end_pending(&mut session, id).await?;
        }
        session.commit().await?;
        Ok(changed)
    }

    async fn webhook_delete(&self, team: TeamId, id: Uuid) -> Result<bool> {
        // Nothing is added to it from here on; who comes back to one that is half gone finds
        // it disabled, and deletes it again.
        let disable = Statement::new(
            "UPDATE webhooks SET enabled = 0, disabled_reason = 'it is being deleted'
             WHERE id = $1 AND team_id = $2",
        )
        .text(id)
        .text(team);
        if self.database.execute(disable).await? == 0 {
            return Ok(false);
        }
        for batch in [
            "DELETE FROM delivery_attempts WHERE id IN
                (SELECT id FROM delivery_attempts WHERE webhook_id = $1 LIMIT $2)",
            "DELETE FROM deliveries WHERE webhook_id = $1 AND event_id IN
                (SELECT event_id FROM deliveries WHERE webhook_id = $1 LIMIT $2)",
        ] {
            loop {
                let batch = Statement::new(batch).text(id).number(DELETED_AT_ONCE);
                if self.database.execute(batch).await? == 0 {
                    break;
                }
            }
        }
        let delete = Statement::new("DELETE FROM webhooks WHERE id = $1 AND team_id = $2")
            .text(id)
            .text(team);
        Ok(self.database.execute(delete).await? > 0)
    }
}
