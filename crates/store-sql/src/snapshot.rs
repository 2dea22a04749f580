//! Snapshots.

use crate::build::tag_insert;
use crate::row::{parse, records};
use crate::{Columns, Database, Session, SqlStore, Statement, build, millis, template};
use async_trait::async_trait;
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use hearth_store::{Error, NewSnapshot, Result, Snapshot, SnapshotStore};

#[async_trait]
impl<D: Database> SnapshotStore for SqlStore<D> {
    async fn snapshot_create(&self, snapshot: NewSnapshot) -> Result<()> {
        let NewSnapshot {
            template,
            build,
            team_id,
            sandbox_id,
            tag,
            owner,
        } = snapshot;
        let mut session = self.database.begin().await?;
        if let Some(new) = template {
            template::insert(&mut session, new).await?;
        }
        let (id, template_id, now) = (build.id, build.template_id.clone(), build.created_at);
        build::insert(&mut session, build).await?;
        tag_insert(&mut session, &template_id, &tag, id, now).await?;
        let insert = Statement::new(
            "INSERT INTO snapshots (build_id, template_id, team_id, sandbox_id, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .text(id)
        .text(&template_id)
        .text(team_id)
        .text(sandbox_id)
        .number(millis(now));
        session.execute(insert).await?;
        let forget =
            Statement::new("DELETE FROM build_discards WHERE build_id = $1 AND owner = $2")
                .text(id)
                .text(owner);
        if session.execute(forget).await? == 0 {
            return Err(Error::TakenOver("the snapshot's build"));
        }
        session.commit().await
    }

    async fn snapshot_list(
        &self,
        team: TeamId,
        sandbox: Option<&SandboxId>,
        template: Option<&TemplateId>,
    ) -> Result<Vec<Snapshot>> {
        let query = Statement::new(
            "SELECT snapshots.template_id, snapshots.build_id, snapshots.sandbox_id,
                build_assignments.tag, build_assignments.created_at
             FROM build_assignments
             JOIN snapshots ON snapshots.build_id = build_assignments.build_id
             WHERE snapshots.team_id = $1
                AND ($2 IS NULL OR snapshots.sandbox_id = $2)
                AND ($3 IS NULL OR snapshots.template_id = $3)
                AND build_assignments.sequence IN (
                    SELECT max(sequence) FROM build_assignments AS latest
                    WHERE latest.template_id = snapshots.template_id GROUP BY latest.tag)
             ORDER BY build_assignments.created_at DESC, build_assignments.sequence DESC",
        )
        .text(team)
        .text_option(sandbox)
        .text_option(template);
        records(&self.database.rows(query).await?)
    }

    async fn snapshot_source(&self, build: BuildId) -> Result<Option<SandboxId>> {
        let query =
            Statement::new("SELECT sandbox_id FROM snapshots WHERE build_id = $1").text(build);
        let row = self.database.row(query).await?;
        row.map(|row| parse("sandbox id", row.text("sandbox_id")?))
            .transpose()
    }

    async fn template_is_snapshot(&self, template: &TemplateId) -> Result<bool> {
        let query = Statement::new("SELECT build_id FROM snapshots WHERE template_id = $1 LIMIT 1")
            .text(template);
        Ok(self.database.row(query).await?.is_some())
    }
}
