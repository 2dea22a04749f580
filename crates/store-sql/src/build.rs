//! Builds and tags.

use crate::row::{number, parse, record, records, returned, status_text};
use crate::{Columns, Database, Session, SqlStore, Statement, conflict, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TeamId, TemplateId};
use hearth_store::{Build, BuildStatus, BuildStore, Error, NewBuild, Result, TagAssignment};

/// Records a build.
pub(crate) fn insertion(build: NewBuild) -> Statement {
    let created = millis(build.created_at);
    Statement::new(
        "INSERT INTO builds (id, template_id, status, vcpus, memory_mib, disk_mib, envd_version,
            created_at, updated_at, finished_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING *",
    )
    .text(build.id)
    .text(build.template_id)
    .text(status_text(build.status))
    .number(build.vcpus)
    .number(build.memory_mib)
    .number(build.disk_mib)
    .text(build.envd_version)
    .number(created)
    .number(created)
    .number_option(finished(build.status).then_some(created))
}

/// Adds a build to a transaction.
pub(crate) async fn insert(session: &mut impl Session, build: NewBuild) -> Result<Build> {
    let row = session.row(insertion(build)).await;
    returned(row.map_err(conflict("the build"))?.as_ref())
}

/// Gives a build a tag, within a transaction.
pub(crate) async fn tag_insert(
    session: &mut impl Session,
    template: &TemplateId,
    tag: &str,
    build: BuildId,
    now: DateTime<Utc>,
) -> Result<()> {
    let insert = Statement::new(
        "INSERT INTO build_assignments (template_id, tag, build_id, created_at)
         VALUES ($1, $2, $3, $4)",
    )
    .text(template)
    .text(tag)
    .text(build)
    .number(millis(now));
    session.execute(insert).await?;
    let update = Statement::new("UPDATE templates SET updated_at = $1 WHERE id = $2")
        .number(millis(now))
        .text(template);
    session.execute(update).await.map(drop)
}

fn finished(status: BuildStatus) -> bool {
    matches!(status, BuildStatus::Ready | BuildStatus::Error)
}

#[async_trait]
impl<D: Database> BuildStore for SqlStore<D> {
    async fn build_create(&self, build: NewBuild) -> Result<Build> {
        let row = self.database.row(insertion(build)).await;
        returned(row.map_err(conflict("the build"))?.as_ref())
    }

    async fn build(&self, id: BuildId) -> Result<Option<Build>> {
        let query = Statement::new("SELECT * FROM builds WHERE id = $1").text(id);
        record(self.database.row(query).await?.as_ref())
    }

    async fn build_set_status(
        &self,
        id: BuildId,
        status: BuildStatus,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let update = Statement::new(
            "UPDATE builds SET status = $1, updated_at = $2, finished_at = $3 WHERE id = $4",
        )
        .text(status_text(status))
        .number(millis(now))
        .number_option(finished(status).then_some(millis(now)))
        .text(id);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn build_list(
        &self,
        template: &TemplateId,
        before: Option<(DateTime<Utc>, BuildId)>,
        limit: u32,
    ) -> Result<Vec<Build>> {
        let (time, id) = match before {
            Some((time, id)) => (millis(time), id.to_string()),
            None => (i64::MAX, String::new()),
        };
        let query = Statement::new(
            "SELECT * FROM builds WHERE template_id = $1 AND (created_at, id) < ($2, $3)
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .text(template)
        .number(time)
        .text(id)
        .number(limit);
        records(&self.database.rows(query).await?)
    }

    async fn team_builds(&self, team: TeamId) -> Result<Vec<BuildId>> {
        let query = Statement::new(
            "SELECT builds.id FROM builds JOIN templates ON templates.id = builds.template_id
             WHERE templates.team_id = $1 AND templates.is_default = 0 ORDER BY builds.id",
        )
        .text(team);
        let rows = self.database.rows(query).await?;
        rows.iter()
            .map(|row| parse("build id", row.text("id")?))
            .collect()
    }

    async fn build_count(&self, template: &TemplateId) -> Result<u32> {
        let query = Statement::new("SELECT count(*) AS builds FROM builds WHERE template_id = $1")
            .text(template);
        let row = self.database.row(query).await?;
        let row = row.ok_or_else(|| Error::Backend("a count answered no row".into()))?;
        number(&row, "builds")
    }

    async fn tag_assign(
        &self,
        template: &TemplateId,
        tag: &str,
        build: BuildId,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut session = self.database.begin().await?;
        tag_insert(&mut session, template, tag, build, now).await?;
        session.commit().await
    }

    async fn tag_build(&self, template: &TemplateId, tag: &str) -> Result<Option<Build>> {
        let query = Statement::new(
            "SELECT builds.* FROM build_assignments
             JOIN builds ON builds.id = build_assignments.build_id
             WHERE build_assignments.template_id = $1 AND build_assignments.tag = $2
             ORDER BY build_assignments.sequence DESC LIMIT 1",
        )
        .text(template)
        .text(tag);
        record(self.database.row(query).await?.as_ref())
    }

    async fn tag_list(&self, template: &TemplateId) -> Result<Vec<TagAssignment>> {
        let query = Statement::new(
            "SELECT tag, build_id, created_at FROM build_assignments
             WHERE sequence IN (SELECT max(sequence) FROM build_assignments
                WHERE template_id = $1 GROUP BY tag)
             ORDER BY tag",
        )
        .text(template);
        records(&self.database.rows(query).await?)
    }

    async fn tag_delete(&self, template: &TemplateId, tag: &str) -> Result<bool> {
        let delete =
            Statement::new("DELETE FROM build_assignments WHERE template_id = $1 AND tag = $2")
                .text(template)
                .text(tag);
        Ok(self.database.execute(delete).await? > 0)
    }
}
