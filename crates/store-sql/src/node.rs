//! Nodes.

use crate::row::{Record, number, parse, record, records, returned, time, time_option};
use crate::{Columns, Database, SqlStore, Statement, length};
use async_trait::async_trait;
use hearth_store::{
    Error, NodeMode, NodeRecord, NodeRegistration, NodeRemoval, NodeRun, NodeStore, Result,
};
use std::time::Duration;
use uuid::Uuid;

fn mode_text(mode: NodeMode) -> &'static str {
    match mode {
        NodeMode::Ready => "ready",
        NodeMode::Draining => "draining",
        NodeMode::Standby => "standby",
    }
}

fn mode(text: String) -> Result<NodeMode> {
    match text.as_str() {
        "ready" => Ok(NodeMode::Ready),
        "draining" => Ok(NodeMode::Draining),
        "standby" => Ok(NodeMode::Standby),
        _ => Err(Error::Corrupt {
            what: "node mode",
            text,
        }),
    }
}

impl Record for NodeRecord {
    fn read(row: &impl Columns) -> Result<Self> {
        let labels = row.text("labels")?;
        let unreadable = |_| Error::Corrupt {
            what: "node labels",
            text: labels.clone(),
        };
        Ok(Self {
            id: parse("node id", row.text("id")?)?,
            name: row.text("name")?,
            address: row.text("address")?,
            instance: parse("node instance", row.text("instance")?)?,
            generation: number(row, "generation")?,
            mode: mode(row.text("mode")?)?,
            labels: serde_json::from_str(&labels).map_err(unreadable)?,
            version: row.text("version")?,
            revision: row.text("revision")?,
            report: row.text_option("report")?,
            registered_at: time(row, "registered_at")?,
            heartbeat_at: time_option(row, "heartbeat_at")?,
            lease_until: time(row, "lease_until")?,
            changed_at: time(row, "changed_at")?,
            alive: row.number("alive")? != 0,
        })
    }
}

fn generation(run: NodeRun) -> i64 {
    i64::try_from(run.generation).unwrap_or(i64::MAX)
}

/// All columns of a node, and whether its lease is good.
fn columns<D: Database>() -> String {
    let now = D::NOW;
    format!("*, CAST(CASE WHEN lease_until > {now} THEN 1 ELSE 0 END AS BIGINT) AS alive")
}

#[async_trait]
impl<D: Database> NodeStore for SqlStore<D> {
    async fn node_register(
        &self,
        registration: NodeRegistration,
        lease: Duration,
    ) -> Result<NodeRecord> {
        let (now, columns) = (D::NOW, columns::<D>());
        let labels = serde_json::to_string(&registration.labels)
            .map_err(|error| Error::Backend(error.into()))?;
        let register = Statement::new(format!(
            "INSERT INTO nodes (id, name, address, instance, generation, mode, labels, version,
                revision, registered_at, lease_until, changed_at)
             VALUES ($1, $2, $3, $4, 1, 'ready', $5, $6, $7, {now}, {now} + $8, {now})
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, address = excluded.address,
                instance = excluded.instance, generation = nodes.generation + 1,
                labels = excluded.labels, version = excluded.version,
                revision = excluded.revision, report = NULL, heartbeat_at = NULL,
                lease_until = excluded.lease_until, changed_at = excluded.changed_at
             RETURNING {columns}"
        ))
        .text(registration.id)
        .text(registration.name)
        .text(registration.address)
        .text(registration.instance)
        .text(labels)
        .text(registration.version)
        .text(registration.revision)
        .number(length(lease));
        returned(self.database.row(register).await?.as_ref())
    }

    async fn node_heartbeat(
        &self,
        run: NodeRun,
        report: &str,
        lease: Duration,
    ) -> Result<Option<NodeRecord>> {
        let (now, columns) = (D::NOW, columns::<D>());
        let beat = Statement::new(format!(
            "UPDATE nodes SET report = $3, heartbeat_at = {now}, lease_until = {now} + $4,
                changed_at = CASE WHEN heartbeat_at IS NULL OR lease_until <= {now} THEN {now}
                    ELSE changed_at END
             WHERE id = $1 AND generation = $2
             RETURNING {columns}"
        ))
        .text(run.id)
        .number(generation(run))
        .text(report)
        .number(length(lease));
        record(self.database.row(beat).await?.as_ref())
    }

    async fn node_leave(&self, run: NodeRun) -> Result<()> {
        let now = D::NOW;
        let leave = Statement::new(format!(
            "UPDATE nodes SET lease_until = {now}
             WHERE id = $1 AND generation = $2 AND lease_until > {now}"
        ))
        .text(run.id)
        .number(generation(run));
        self.database.execute(leave).await.map(drop)
    }

    async fn node_list(&self) -> Result<Vec<NodeRecord>> {
        let columns = columns::<D>();
        let list = Statement::new(format!("SELECT {columns} FROM nodes ORDER BY name, id"));
        records(&self.database.rows(list).await?)
    }

    async fn node(&self, id: Uuid) -> Result<Option<NodeRecord>> {
        let columns = columns::<D>();
        let query = Statement::new(format!("SELECT {columns} FROM nodes WHERE id = $1")).text(id);
        record(self.database.row(query).await?.as_ref())
    }

    async fn node_set_mode(&self, id: Uuid, mode: NodeMode) -> Result<Option<NodeRecord>> {
        let (now, columns) = (D::NOW, columns::<D>());
        let update = Statement::new(format!(
            "UPDATE nodes SET mode = $2,
                changed_at = CASE WHEN mode = $2 THEN changed_at ELSE {now} END
             WHERE id = $1
             RETURNING {columns}"
        ))
        .text(id)
        .text(mode_text(mode));
        record(self.database.row(update).await?.as_ref())
    }

    async fn node_remove(&self, id: Uuid) -> Result<NodeRemoval> {
        let delete = Statement::new(format!(
            "DELETE FROM nodes WHERE id = $1 AND lease_until <= {}",
            D::NOW
        ))
        .text(id);
        if self.database.execute(delete).await? > 0 {
            return Ok(NodeRemoval::Removed);
        }
        Ok(match self.node(id).await? {
            Some(_) => NodeRemoval::Alive,
            None => NodeRemoval::Missing,
        })
    }

    async fn cluster_id(&self, new: Uuid) -> Result<Uuid> {
        let query = || Statement::new("SELECT value FROM cluster_facts WHERE name = 'id'");
        let row = match self.database.row(query()).await? {
            Some(row) => row,
            None => {
                let insert = Statement::new(
                    "INSERT INTO cluster_facts (name, value) VALUES ('id', $1)
                     ON CONFLICT (name) DO NOTHING",
                )
                .text(new);
                self.database.execute(insert).await?;
                let made = self.database.row(query()).await?;
                made.ok_or_else(|| Error::Backend("the cluster's id is gone".into()))?
            }
        };
        parse("cluster id", row.text("value")?)
    }
}
