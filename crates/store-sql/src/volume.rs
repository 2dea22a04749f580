//! Volumes.

use crate::row::{record, records, volume_state_text};
use crate::{Columns as _, Database, Session, SqlStore, Statement, conflict, millis};
use async_trait::async_trait;
use hearth_ids::{TeamId, VolumeId};
use hearth_store::{Result, Volume, VolumeState, VolumeStore};

#[async_trait]
impl<D: Database> VolumeStore for SqlStore<D> {
    async fn volume_begin(&self, volume: Volume, most: u32) -> Result<bool> {
        let mut session = self.database.begin().await?;
        // The team's row, so that of two that ask for the last place one comes second.
        let lock = format!("SELECT id FROM teams WHERE id = $1{}", D::LOCK_ROWS);
        session
            .rows(Statement::new(lock).text(volume.team_id))
            .await?;
        let count = Statement::new(
            "SELECT count(*) AS found FROM volumes WHERE team_id = $1 AND state <> 'removing'",
        )
        .text(volume.team_id);
        let row = session.row(count).await?;
        let found = row.map_or(Ok(0), |row| row.number("found"))?;
        let insert = Statement::new(
            "INSERT INTO volumes (id, team_id, name, state, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .text(volume.id)
        .text(volume.team_id)
        .text(volume.name)
        .text(volume_state_text(volume.state))
        .number(millis(volume.created_at));
        // A name that is taken is told first: that is what the caller can change.
        let inserted = session.execute(insert).await;
        inserted.map_err(conflict("the volume"))?;
        if found >= i64::from(most) {
            return Ok(false);
        }
        session.commit().await?;
        Ok(true)
    }

    async fn volume_list(&self, team: TeamId) -> Result<Vec<Volume>> {
        let query = Statement::new(
            "SELECT * FROM volumes WHERE team_id = $1 AND state <> 'removing' ORDER BY name",
        )
        .text(team);
        records(&self.database.rows(query).await?)
    }

    async fn volume(&self, team: TeamId, id: VolumeId) -> Result<Option<Volume>> {
        let query = Statement::new(
            "SELECT * FROM volumes WHERE id = $1 AND team_id = $2 AND state <> 'removing'",
        )
        .text(id)
        .text(team);
        record(self.database.row(query).await?.as_ref())
    }

    async fn volume_advance(
        &self,
        id: VolumeId,
        from: VolumeState,
        to: VolumeState,
    ) -> Result<bool> {
        let update = Statement::new("UPDATE volumes SET state = $1 WHERE id = $2 AND state = $3")
            .text(volume_state_text(to))
            .text(id)
            .text(volume_state_text(from));
        Ok(self.database.execute(update).await? > 0)
    }

    async fn volume_remove(&self, team: TeamId, id: VolumeId) -> Result<bool> {
        let update = Statement::new(
            "UPDATE volumes SET state = 'removing'
             WHERE id = $1 AND team_id = $2 AND state <> 'removing'",
        )
        .text(id)
        .text(team);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn volume_forget(&self, id: VolumeId) -> Result<()> {
        let delete =
            Statement::new("DELETE FROM volumes WHERE id = $1 AND state = 'removing'").text(id);
        self.database.execute(delete).await.map(drop)
    }

    async fn volume_list_unfinished(&self) -> Result<Vec<Volume>> {
        let query = Statement::new(
            "SELECT * FROM volumes WHERE state IN ('making', 'removing') ORDER BY id",
        );
        records(&self.database.rows(query).await?)
    }
}
