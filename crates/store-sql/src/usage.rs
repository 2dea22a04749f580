//! What sandboxes used. All sums are made by the database.

use crate::row::{Record, number, parse, records, time, time_option};
use crate::{Columns, Database, Session, SqlStore, Statement, millis};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{SandboxId, TeamId};
use hearth_store::{Execution, Load, LoadStep, OpenExecution, Result, Span, Usage, UsageStore};

/// Rows that one round of deleting takes at most.
const PRUNED_AT_ONCE: u32 = 5000;

/// Executions within a span (`$1` to before `$2`), with the time that they ran in it.
const SPENT: &str = "SELECT team_id, sandbox_id, vcpus, memory_mib,
        CASE WHEN until < $2 THEN until ELSE $2 END
            - CASE WHEN started_at > $1 THEN started_at ELSE $1 END AS ms
     FROM (SELECT team_id, sandbox_id, vcpus, memory_mib, started_at,
            COALESCE(ended_at, missing_since, $2) AS until
         FROM executions WHERE started_at < $2) AS begun
     WHERE until > $1";

const SUMS: &str = "COUNT(*) AS executions, CAST(SUM(ms * vcpus) AS BIGINT) AS vcpu_ms,
    CAST(SUM(ms * memory_mib) AS BIGINT) AS mib_ms";

impl Record for Usage {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            executions: number(row, "executions")?,
            vcpu_ms: number(row, "vcpu_ms")?,
            memory_mib_ms: number(row, "mib_ms")?,
        })
    }
}

impl Record for OpenExecution {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            sandbox_id: parse("sandbox id", row.text("sandbox_id")?)?,
            started_at: time(row, "started_at")?,
            missing_since: time_option(row, "missing_since")?,
        })
    }
}

impl Record for LoadStep {
    fn read(row: &impl Columns) -> Result<Self> {
        Ok(Self {
            step: number(row, "step")?,
            started: number(row, "started")?,
            ended: number(row, "ended")?,
        })
    }
}

fn span(text: String, span: Span) -> Statement {
    Statement::new(text)
        .number(millis(span.start))
        .number(millis(span.end))
}

#[async_trait]
impl<D: Database> UsageStore for SqlStore<D> {
    async fn execution_record(&self, executions: &[Execution]) -> Result<()> {
        let mut session = self.database.begin().await?;
        for execution in executions {
            let note = Statement::new(
                "INSERT INTO executions (sandbox_id, started_at, team_id, template_id, vcpus,
                    memory_mib, ended_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (sandbox_id, started_at) DO UPDATE SET
                    ended_at = CASE
                        WHEN excluded.ended_at IS NULL THEN executions.ended_at
                        WHEN executions.ended_at < excluded.ended_at THEN executions.ended_at
                        ELSE excluded.ended_at END",
            )
            .text(&execution.sandbox_id)
            .number(millis(execution.started_at))
            .text(execution.team_id)
            .text(&execution.template_id)
            .number(execution.vcpus)
            .number(execution.memory_mib)
            .number_option(execution.ended_at.map(millis));
            session.execute(note).await?;
        }
        session.commit().await
    }

    async fn execution_list_open(
        &self,
        after: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<OpenExecution>> {
        let query = Statement::new(
            "SELECT sandbox_id, started_at, missing_since FROM executions
             WHERE ended_at IS NULL AND started_at > $1 ORDER BY started_at LIMIT $2",
        )
        .number(millis(after))
        .number(limit);
        records(&self.database.rows(query).await?)
    }

    async fn execution_set_missing(
        &self,
        sandbox: &SandboxId,
        started_at: DateTime<Utc>,
        since: Option<DateTime<Utc>>,
    ) -> Result<()> {
        let update = Statement::new(
            "UPDATE executions SET missing_since = $3
             WHERE sandbox_id = $1 AND started_at = $2 AND ended_at IS NULL",
        )
        .text(sandbox)
        .number(millis(started_at))
        .number_option(since.map(millis));
        self.database.execute(update).await?;
        Ok(())
    }

    async fn usage_by_team(&self, of: Span, team: Option<TeamId>) -> Result<Vec<(TeamId, Usage)>> {
        let only = if team.is_some() {
            "WHERE team_id = $3"
        } else {
            ""
        };
        let mut query = span(
            format!(
                "SELECT team_id, {SUMS} FROM ({SPENT}) AS spent {only}
                 GROUP BY team_id ORDER BY team_id"
            ),
            of,
        );
        if let Some(team) = team {
            query = query.text(team);
        }
        let rows = self.database.rows(query).await?;
        let read = |row| {
            Ok((
                parse("team id", Columns::text(row, "team_id")?)?,
                Usage::read(row)?,
            ))
        };
        rows.iter().map(read).collect()
    }

    async fn usage_by_sandbox(
        &self,
        of: Span,
        team: TeamId,
        after: Option<&SandboxId>,
        limit: u32,
    ) -> Result<Vec<(SandboxId, Usage)>> {
        let query = span(
            format!(
                "SELECT sandbox_id, {SUMS} FROM ({SPENT}) AS spent
                 WHERE team_id = $3 AND sandbox_id > $4
                 GROUP BY sandbox_id ORDER BY sandbox_id LIMIT $5"
            ),
            of,
        )
        .text(team)
        .text(after.map(ToString::to_string).unwrap_or_default())
        .number(limit);
        let rows = self.database.rows(query).await?;
        let read = |row| {
            let id = parse("sandbox id", Columns::text(row, "sandbox_id")?)?;
            Ok((id, Usage::read(row)?))
        };
        rows.iter().map(read).collect()
    }

    async fn team_load(&self, of: Span, team: TeamId, step_ms: u32) -> Result<Load> {
        let before = span(
            "SELECT COUNT(*) AS running FROM executions
             WHERE team_id = $3 AND started_at < $1 AND COALESCE(ended_at, missing_since, $2) >= $1"
                .to_owned(),
            of,
        )
        .text(team);
        let row = self.database.row(before).await?;
        let running = row.as_ref().map_or(Ok(0), |row| number(row, "running"))?;
        let changes = span(
            "SELECT step, CAST(SUM(started) AS BIGINT) AS started,
                CAST(SUM(ended) AS BIGINT) AS ended
             FROM (SELECT (started_at - $1) / $4 AS step, 1 AS started, 0 AS ended
                     FROM executions
                     WHERE team_id = $3 AND started_at >= $1 AND started_at < $2
                 UNION ALL
                 SELECT (COALESCE(ended_at, missing_since) - $1) / $4, 0, 1 FROM executions
                     WHERE team_id = $3 AND COALESCE(ended_at, missing_since) >= $1
                        AND COALESCE(ended_at, missing_since) < $2) AS changes
             GROUP BY step ORDER BY step"
                .to_owned(),
            of,
        )
        .text(team)
        .number(step_ms);
        let steps = records(&self.database.rows(changes).await?)?;
        Ok(Load { running, steps })
    }

    async fn team_peak(&self, of: Span, team: TeamId) -> Result<Option<(DateTime<Utc>, u64)>> {
        let query = span(
            "SELECT at, running FROM
                (SELECT at, CAST(SUM(change) OVER (ORDER BY at, change ROWS UNBOUNDED PRECEDING)
                        AS BIGINT) AS running
                 FROM (SELECT CASE WHEN started_at > $1 THEN started_at ELSE $1 END AS at,
                            1 AS change FROM executions
                        WHERE team_id = $3 AND started_at < $2
                            AND COALESCE(ended_at, missing_since, $2) > $1
                     UNION ALL
                     SELECT COALESCE(ended_at, missing_since), -1 FROM executions
                        WHERE team_id = $3 AND started_at < $2
                            AND COALESCE(ended_at, missing_since) > $1
                            AND COALESCE(ended_at, missing_since) < $2) AS changes) AS sums
             ORDER BY running DESC, at LIMIT 1"
                .to_owned(),
            of,
        )
        .text(team);
        let row = self.database.row(query).await?;
        row.map(|row| Ok((time(&row, "at")?, number(&row, "running")?)))
            .transpose()
    }

    async fn execution_prune(&self, before: DateTime<Utc>) -> Result<u64> {
        let old = Statement::new(
            "DELETE FROM executions WHERE ended_at < $1 AND started_at <
                COALESCE((SELECT started_at FROM executions
                    WHERE ended_at < $1 ORDER BY started_at LIMIT 1 OFFSET $2), $1)",
        )
        .number(millis(before))
        .number(PRUNED_AT_ONCE);
        self.database.execute(old).await
    }
}
