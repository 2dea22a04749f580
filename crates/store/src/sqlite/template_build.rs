//! Builds that teams ask for.

use super::row::BuildRow;
use super::{SqliteStore, conflict, millis};
use crate::template_build::{BuildRequest, NewBuildRequest, TemplateBuildStore};
use crate::{Build, Error, Result};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::BuildId;

#[derive(sqlx::FromRow)]
struct RequestRow {
    #[sqlx(flatten)]
    build: BuildRow,
    team_id: String,
    tags: String,
    min_free_disk_mib: i64,
    reason: Option<String>,
    reason_step: Option<String>,
}

impl TryFrom<RequestRow> for BuildRequest {
    type Error = Error;

    fn try_from(row: RequestRow) -> Result<Self> {
        let corrupt = |what, text: &str| Error::Corrupt {
            what,
            text: text.to_owned(),
        };
        Ok(Self {
            build: row.build.try_into()?,
            team_id: row
                .team_id
                .parse()
                .map_err(|_| corrupt("team id", &row.team_id))?,
            tags: serde_json::from_str(&row.tags)
                .map_err(|_| corrupt("list of tags", &row.tags))?,
            min_free_disk_mib: u32::try_from(row.min_free_disk_mib).unwrap_or(u32::MAX),
            reason: row.reason,
            reason_step: row.reason_step,
        })
    }
}

const REQUESTS: &str = "SELECT builds.*, build_requests.team_id, build_requests.tags,
    build_requests.min_free_disk_mib, build_requests.reason, build_requests.reason_step
    FROM build_requests JOIN builds ON builds.id = build_requests.build_id";

#[async_trait]
impl TemplateBuildStore for SqliteStore {
    async fn build_request_create(&self, request: NewBuildRequest) -> Result<Build> {
        let build = request.build;
        let created = millis(build.created_at);
        let mut transaction = self.write().await?;
        let row: BuildRow = sqlx::query_as(
            "INSERT INTO builds (id, template_id, status, vcpus, memory_mib, disk_mib,
                envd_version, created_at, updated_at)
             VALUES (?, ?, 'waiting', ?, ?, ?, ?, ?, ?) RETURNING *",
        )
        .bind(build.id.to_string())
        .bind(build.template_id.as_str())
        .bind(build.vcpus)
        .bind(build.memory_mib)
        .bind(build.disk_mib)
        .bind(build.envd_version)
        .bind(created)
        .bind(created)
        .fetch_one(&mut *transaction)
        .await
        .map_err(conflict("the build"))?;
        let tags = serde_json::to_string(&request.tags)
            .map_err(|error| Error::Backend(Box::new(error)))?;
        sqlx::query(
            "INSERT INTO build_requests (build_id, team_id, tags, min_free_disk_mib)
             VALUES (?, ?, ?, ?)",
        )
        .bind(build.id.to_string())
        .bind(request.team_id.to_string())
        .bind(tags)
        .bind(request.min_free_disk_mib)
        .execute(&mut *transaction)
        .await
        .map_err(conflict("the build"))?;
        transaction.commit().await?;
        row.try_into()
    }

    async fn build_request(&self, id: BuildId) -> Result<Option<BuildRequest>> {
        let query = format!("{REQUESTS} WHERE builds.id = ?");
        let row: Option<RequestRow> = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        row.map(BuildRequest::try_from).transpose()
    }

    async fn build_request_list_active(&self) -> Result<Vec<BuildRequest>> {
        let query = format!(
            "{REQUESTS} WHERE builds.status IN ('waiting', 'building')
             ORDER BY builds.created_at, builds.id"
        );
        let rows: Vec<RequestRow> = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(BuildRequest::try_from).collect()
    }

    async fn build_begin(&self, id: BuildId, now: DateTime<Utc>) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE builds SET status = 'building', updated_at = ?
             WHERE id = ? AND status = 'waiting'",
        )
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn build_succeed(
        &self,
        id: BuildId,
        disk_mib: u32,
        envd_version: &str,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let mut transaction = self.write().await?;
        let done = sqlx::query(
            "UPDATE builds SET status = 'ready', disk_mib = ?, envd_version = ?,
                updated_at = ?, finished_at = ?
             WHERE id = ? AND status IN ('waiting', 'building')",
        )
        .bind(disk_mib)
        .bind(envd_version)
        .bind(millis(now))
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO build_assignments (template_id, tag, build_id, created_at)
             SELECT builds.template_id, tag.value, builds.id, ?
             FROM build_requests JOIN builds ON builds.id = build_requests.build_id,
                json_each(build_requests.tags) AS tag
             WHERE builds.id = ?",
        )
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "UPDATE templates SET updated_at = ?
             WHERE id = (SELECT template_id FROM builds WHERE id = ?)",
        )
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn build_fail(
        &self,
        id: BuildId,
        reason: &str,
        step: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let mut transaction = self.write().await?;
        let done = sqlx::query(
            "UPDATE builds SET status = 'error', updated_at = ?, finished_at = ?
             WHERE id = ? AND status IN ('waiting', 'building')",
        )
        .bind(millis(now))
        .bind(millis(now))
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("UPDATE build_requests SET reason = ?, reason_step = ? WHERE build_id = ?")
            .bind(reason)
            .bind(step)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }
}
