//! Teams.

use crate::row::{record, records, returned};
use crate::{Database, SqlStore, Statement, conflict, millis};
use async_trait::async_trait;
use hearth_ids::TeamId;
use hearth_store::{LimitsSetBy, NewTeam, Result, Team, TeamLimits, TeamStore};

fn limits(statement: Statement, limits: TeamLimits) -> Statement {
    statement
        .number(limits.max_concurrent_sandboxes)
        .number(limits.max_length_hours)
        .number(limits.max_vcpus)
        .number(limits.max_memory_mib)
        .number(limits.max_disk_mib)
        .number(limits.max_paused_sandboxes)
        .number(limits.max_snapshots)
        .number(limits.max_templates)
        .number(limits.max_stored_mib)
        .number(limits.max_volumes)
        .number(limits.max_total_vcpus)
        .number(limits.max_total_memory_mib)
}

#[async_trait]
impl<D: Database> TeamStore for SqlStore<D> {
    async fn team_create(&self, team: NewTeam) -> Result<Team> {
        let insert = Statement::new(
            "INSERT INTO teams (id, slug, name, created_at, max_concurrent_sandboxes,
                max_length_hours, max_vcpus, max_memory_mib, max_disk_mib, max_paused_sandboxes,
                max_snapshots, max_templates, max_stored_mib, max_volumes, max_total_vcpus,
                max_total_memory_mib)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
             RETURNING *",
        )
        .text(team.id)
        .text(team.slug)
        .text(team.name)
        .number(millis(team.created_at));
        let row = self.database.row(limits(insert, team.limits)).await;
        returned(row.map_err(conflict("the team"))?.as_ref())
    }

    async fn team_list(&self) -> Result<Vec<Team>> {
        let query = Statement::new("SELECT * FROM teams ORDER BY slug");
        records(&self.database.rows(query).await?)
    }

    async fn team_by_slug(&self, slug: &str) -> Result<Option<Team>> {
        let query = Statement::new("SELECT * FROM teams WHERE slug = $1").text(slug);
        record(self.database.row(query).await?.as_ref())
    }

    async fn team(&self, id: TeamId) -> Result<Option<Team>> {
        let query = Statement::new("SELECT * FROM teams WHERE id = $1").text(id);
        record(self.database.row(query).await?.as_ref())
    }

    async fn team_set_limits(&self, id: TeamId, new: TeamLimits, by: LimitsSetBy) -> Result<bool> {
        let update = Statement::new(
            "UPDATE teams SET limits_by_operator = $2, max_concurrent_sandboxes = $3,
                max_length_hours = $4, max_vcpus = $5, max_memory_mib = $6, max_disk_mib = $7,
                max_paused_sandboxes = $8, max_snapshots = $9, max_templates = $10,
                max_stored_mib = $11, max_volumes = $12, max_total_vcpus = $13,
                max_total_memory_mib = $14
             WHERE id = $1 AND limits_by_operator <= $2",
        )
        .text(id)
        .number(by == LimitsSetBy::Operator);
        Ok(self.database.execute(limits(update, new)).await? > 0)
    }

    async fn team_set_standing(
        &self,
        id: TeamId,
        banned: bool,
        blocked_reason: Option<&str>,
    ) -> Result<bool> {
        let update =
            Statement::new("UPDATE teams SET banned = $1, blocked_reason = $2 WHERE id = $3")
                .number(banned)
                .text_option(blocked_reason)
                .text(id);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn team_delete(&self, id: TeamId) -> Result<bool> {
        let delete = Statement::new("DELETE FROM teams WHERE id = $1").text(id);
        Ok(self.database.execute(delete).await? > 0)
    }
}
