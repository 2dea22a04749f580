//! Builds that teams ask for.

use crate::build::{insert, tag_insert};
use crate::row::{Record, number, parse, record, records};
use crate::{Columns, Database, Session, SqlStore, Statement, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TeamId, TemplateId};
use hearth_store::{
    Build, BuildRequest, BuildStatus, Error, Event, NewBuild, NewBuildRequest, Result,
    TemplateBuildStore,
};
use uuid::Uuid;

impl Record for BuildRequest {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            build: Build::read(row)?,
            team_id: parse("team id", row.text("team_id")?)?,
            tags: tags(row)?,
            min_free_disk_mib: number(row, "min_free_disk_mib")?,
            reason: row.text_option("reason")?,
            reason_step: row.text_option("reason_step")?,
        })
    }
}

fn tags(row: &impl Columns) -> Result<Vec<String>> {
    let text = row.text("tags")?;
    serde_json::from_str(&text).map_err(|_| Error::Corrupt {
        what: "list of tags",
        text,
    })
}

const REQUESTS: &str = "SELECT builds.*, build_requests.team_id, build_requests.tags,
    build_requests.min_free_disk_mib, build_requests.reason, build_requests.reason_step
    FROM build_requests JOIN builds ON builds.id = build_requests.build_id";

/// What was asked for with a build.
struct Wanted {
    template: TemplateId,
    team: TeamId,
    tags: Vec<String>,
}

impl Wanted {
    /// Tells that the build has ended, in the transaction in which it does.
    async fn tell(
        &self,
        session: &mut impl Session,
        id: BuildId,
        (event_type, data): (&str, Option<serde_json::Value>),
        now: DateTime<Utc>,
    ) -> Result<()> {
        let event = Event {
            id: Uuid::new_v4(),
            team_id: self.team,
            event_type: event_type.to_owned(),
            category: Some("build".to_owned()),
            label: Some("finish".to_owned()),
            data: data.map(|data| data.to_string()),
            occurred_at: now,
            sandbox_id: None,
            execution_id: None,
            template_id: Some(self.template.clone()),
            build_id: Some(id),
        };
        crate::event::insert(session, &event, now).await.map(drop)
    }
}

/// The template of a build, and the tags that were asked for it.
async fn wanted(session: &mut impl Session, id: BuildId) -> Result<Option<Wanted>> {
    let query = Statement::new(
        "SELECT builds.template_id, build_requests.tags, build_requests.team_id
         FROM build_requests
         JOIN builds ON builds.id = build_requests.build_id WHERE builds.id = $1",
    )
    .text(id);
    let Some(row) = session.row(query).await? else {
        return Ok(None);
    };
    let template = parse("template id", row.text("template_id")?)?;
    Ok(Some(Wanted {
        template,
        team: parse("team id", row.text("team_id")?)?,
        tags: tags(&row)?,
    }))
}

#[async_trait]
impl<D: Database> TemplateBuildStore for SqlStore<D> {
    async fn build_request_create(&self, request: NewBuildRequest) -> Result<Build> {
        let tags = serde_json::to_string(&request.tags)
            .map_err(|error| Error::Backend(Box::new(error)))?;
        let mut session = self.database.begin().await?;
        let id = request.build.id;
        let waiting = NewBuild {
            status: BuildStatus::Waiting,
            ..request.build
        };
        let build = insert(&mut session, waiting).await?;
        let note = Statement::new(
            "INSERT INTO build_requests (build_id, team_id, tags, min_free_disk_mib)
             VALUES ($1, $2, $3, $4)",
        )
        .text(id)
        .text(request.team_id)
        .text(tags)
        .number(request.min_free_disk_mib);
        session.execute(note).await?;
        session.commit().await?;
        Ok(build)
    }

    async fn build_request(&self, id: BuildId) -> Result<Option<BuildRequest>> {
        let query = Statement::new(format!("{REQUESTS} WHERE builds.id = $1")).text(id);
        record(self.database.row(query).await?.as_ref())
    }

    async fn build_request_list_active(&self) -> Result<Vec<BuildRequest>> {
        let query = Statement::new(format!(
            "{REQUESTS} WHERE builds.status IN ('waiting', 'building')
             ORDER BY builds.created_at, builds.id"
        ));
        records(&self.database.rows(query).await?)
    }

    async fn build_begin(&self, id: BuildId, now: DateTime<Utc>) -> Result<bool> {
        let update = Statement::new(
            "UPDATE builds SET status = 'building', updated_at = $1
             WHERE id = $2 AND status = 'waiting'",
        )
        .number(millis(now))
        .text(id);
        Ok(self.database.execute(update).await? > 0)
    }

    async fn build_succeed(
        &self,
        id: BuildId,
        disk_mib: u32,
        envd_version: &str,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let mut session = self.database.begin().await?;
        let update = Statement::new(
            "UPDATE builds SET status = 'ready', disk_mib = $1, envd_version = $2,
                updated_at = $3, finished_at = $3
             WHERE id = $4 AND status IN ('waiting', 'building')",
        )
        .number(disk_mib)
        .text(envd_version)
        .number(millis(now))
        .text(id);
        if session.execute(update).await? == 0 {
            return Ok(false);
        }
        if let Some(wanted) = wanted(&mut session, id).await? {
            for tag in &wanted.tags {
                tag_insert(&mut session, &wanted.template, tag, id, now).await?;
            }
            let ready = ("template.build.ready", None);
            wanted.tell(&mut session, id, ready, now).await?;
        }
        session.commit().await?;
        Ok(true)
    }

    async fn build_fail(
        &self,
        id: BuildId,
        reason: &str,
        step: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let mut session = self.database.begin().await?;
        let update = Statement::new(
            "UPDATE builds SET status = 'error', updated_at = $1, finished_at = $1
             WHERE id = $2 AND status IN ('waiting', 'building')",
        )
        .number(millis(now))
        .text(id);
        if session.execute(update).await? == 0 {
            return Ok(false);
        }
        let explain = Statement::new(
            "UPDATE build_requests SET reason = $1, reason_step = $2 WHERE build_id = $3",
        )
        .text(reason)
        .text_option(step)
        .text(id);
        session.execute(explain).await?;
        if let Some(wanted) = wanted(&mut session, id).await? {
            let data = serde_json::json!({"reason": reason, "step": step});
            let failed = ("template.build.failed", Some(data));
            wanted.tell(&mut session, id, failed, now).await?;
        }
        session.commit().await?;
        Ok(true)
    }
}
