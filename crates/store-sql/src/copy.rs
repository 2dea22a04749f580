//! Copying a whole store into another, empty one.
//!
//! All of it is one transaction of either database: the source cannot change meanwhile,
//! and the target has everything or nothing. Leases stay behind: they are of processes
//! that use the source.

use crate::{Columns, Database, Session, SqlStore, Statement};
use hearth_store::{Error, Result};

/// How many rows of a table were copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The table.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Number,
}
use Kind::{Number, Text};

struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
}

/// Every table, each after those that it refers to.
const TABLES: [Table; 20] = [
    Table {
        name: "executions",
        columns: &[
            ("sandbox_id", Text),
            ("started_at", Number),
            ("team_id", Text),
            ("template_id", Text),
            ("vcpus", Number),
            ("memory_mib", Number),
            ("ended_at", Number),
            ("missing_since", Number),
        ],
    },
    Table {
        name: "teams",
        columns: &[
            ("id", Text),
            ("slug", Text),
            ("name", Text),
            ("max_concurrent_sandboxes", Number),
            ("max_length_hours", Number),
            ("max_vcpus", Number),
            ("max_memory_mib", Number),
            ("max_disk_mib", Number),
            ("max_paused_sandboxes", Number),
            ("max_snapshots", Number),
            ("max_templates", Number),
            ("max_stored_mib", Number),
            ("max_volumes", Number),
            ("max_total_vcpus", Number),
            ("max_total_memory_mib", Number),
            ("limits_by_operator", Number),
            ("banned", Number),
            ("blocked_reason", Text),
            ("created_at", Number),
        ],
    },
    Table {
        name: "api_keys",
        columns: &[
            ("id", Text),
            ("team_id", Text),
            ("name", Text),
            ("hash", Text),
            ("prefix", Text),
            ("value_length", Number),
            ("mask_first", Text),
            ("mask_last", Text),
            ("created_at", Number),
            ("last_used_at", Number),
            ("revoked_at", Number),
            ("scopes", Text),
            ("read_only", Number),
            ("expires_at", Number),
            ("networks", Text),
        ],
    },
    Table {
        name: "volumes",
        columns: &[
            ("id", Text),
            ("team_id", Text),
            ("name", Text),
            ("state", Text),
            ("created_at", Number),
        ],
    },
    Table {
        name: "templates",
        columns: &[
            ("id", Text),
            ("team_id", Text),
            ("description", Text),
            ("public", Number),
            ("is_default", Number),
            ("spawn_count", Number),
            ("last_spawned_at", Number),
            ("created_at", Number),
            ("updated_at", Number),
        ],
    },
    Table {
        name: "template_aliases",
        columns: &[("namespace", Text), ("alias", Text), ("template_id", Text)],
    },
    Table {
        name: "builds",
        columns: &[
            ("id", Text),
            ("template_id", Text),
            ("status", Text),
            ("vcpus", Number),
            ("memory_mib", Number),
            ("disk_mib", Number),
            ("envd_version", Text),
            ("created_at", Number),
            ("updated_at", Number),
            ("finished_at", Number),
        ],
    },
    Table {
        name: "build_assignments",
        columns: &[
            ("sequence", Number),
            ("template_id", Text),
            ("tag", Text),
            ("build_id", Text),
            ("created_at", Number),
        ],
    },
    Table {
        name: "snapshots",
        columns: &[
            ("build_id", Text),
            ("template_id", Text),
            ("team_id", Text),
            ("sandbox_id", Text),
            ("created_at", Number),
        ],
    },
    Table {
        name: "build_discards",
        columns: &[("build_id", Text), ("owner", Text)],
    },
    Table {
        name: "build_requests",
        columns: &[
            ("build_id", Text),
            ("team_id", Text),
            ("tags", Text),
            ("min_free_disk_mib", Number),
            ("reason", Text),
            ("reason_step", Text),
        ],
    },
    Table {
        name: "idempotency",
        columns: &[
            ("team_id", Text),
            ("key", Text),
            ("request_hash", Text),
            ("sandbox_id", Text),
            ("owner", Text),
            ("outcome", Text),
            ("lease_until", Number),
            ("expires_at", Number),
        ],
    },
    Table {
        name: "events",
        columns: &[
            ("id", Text),
            ("team_id", Text),
            ("type", Text),
            ("category", Text),
            ("label", Text),
            ("data", Text),
            ("occurred_at", Number),
            ("sandbox_id", Text),
            ("execution_id", Text),
            ("template_id", Text),
            ("build_id", Text),
        ],
    },
    Table {
        name: "webhooks",
        columns: &[
            ("id", Text),
            ("team_id", Text),
            ("name", Text),
            ("url", Text),
            ("events", Text),
            ("sealed_secret", Text),
            ("enabled", Number),
            ("disabled_reason", Text),
            ("failing_since", Number),
            ("created_at", Number),
        ],
    },
    Table {
        name: "deliveries",
        columns: &[
            ("webhook_id", Text),
            ("event_id", Text),
            ("sandbox_id", Text),
            ("event_type", Text),
            ("occurred_at", Number),
            ("state", Text),
            ("attempts", Number),
            ("next_at", Number),
        ],
    },
    Table {
        name: "delivery_attempts",
        columns: &[
            ("id", Text),
            ("webhook_id", Text),
            ("event_id", Text),
            ("success", Number),
            ("duration_ms", Number),
            ("request_url", Text),
            ("request_body", Text),
            ("request_headers", Text),
            ("response_body", Text),
            ("response_headers", Text),
            ("response_status", Number),
            ("error_class", Text),
            ("error_message", Text),
            ("at", Number),
        ],
    },
    Table {
        name: "nodes",
        columns: &[
            ("id", Text),
            ("name", Text),
            ("address", Text),
            ("instance", Text),
            ("generation", Number),
            ("mode", Text),
            ("labels", Text),
            ("version", Text),
            ("revision", Text),
            ("report", Text),
            ("registered_at", Number),
            ("heartbeat_at", Number),
            ("lease_until", Number),
            ("changed_at", Number),
        ],
    },
    Table {
        name: "node_tokens",
        columns: &[
            ("digest", Text),
            ("created_at", Number),
            ("expires_at", Number),
            ("used_by", Text),
        ],
    },
    Table {
        name: "node_identities",
        columns: &[
            ("node_id", Text),
            ("key", Text),
            ("joined_at", Number),
            ("revoked_at", Number),
        ],
    },
    Table {
        name: "cluster_facts",
        columns: &[("name", Text), ("value", Text)],
    },
];

impl Table {
    fn selection(&self) -> Statement {
        let columns: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        let (columns, name) = (columns.join(", "), self.name);
        Statement::new(format!("SELECT {columns} FROM {name}"))
    }

    /// An insertion of what stands in a row.
    fn insertion(&self, row: &impl Columns) -> Result<Statement> {
        let columns: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        let places: Vec<String> = (1..=columns.len()).map(|n| format!("${n}")).collect();
        let mut insert = Statement::new(format!(
            "INSERT INTO {} ({}) VALUES ({})",
            self.name,
            columns.join(", "),
            places.join(", ")
        ));
        for (column, kind) in self.columns {
            insert = match kind {
                Text => insert.text_option(row.text_option(column)?),
                Number => insert.number_option(row.number_option(column)?),
            };
        }
        Ok(insert)
    }

    async fn count(&self, session: &mut impl Session) -> Result<u64> {
        let count = Statement::new(format!("SELECT count(*) AS found FROM {}", self.name));
        let row = session.row(count).await?;
        let found = row.map_or(Ok(0), |row| row.number("found"))?;
        Ok(u64::try_from(found).unwrap_or(0))
    }
}

/// Copies all of a store into one that holds nothing.
///
/// # Errors
/// [`Error::Conflict`] when the target holds something; the target is as it was,
/// whichever error it is.
pub async fn copy<A: Database, B: Database>(
    from: &SqlStore<A>,
    to: &SqlStore<B>,
) -> Result<Vec<Copied>> {
    // Its lock on writing keeps the source as it is; nothing is written.
    let mut source = from.database.begin().await?;
    let mut target = to.database.begin().await?;
    for table in &TABLES {
        if table.count(&mut target).await? > 0 {
            return Err(Error::Conflict(table.name));
        }
    }
    let mut all = Vec::new();
    for table in &TABLES {
        let rows = source.rows(table.selection()).await?;
        for row in &rows {
            target.execute(table.insertion(row)?).await?;
        }
        let (read, written) = (rows.len() as u64, table.count(&mut target).await?);
        if read != written {
            let text = format!("{read} rows of {} became {written}", table.name);
            return Err(Error::Backend(text.into()));
        }
        all.push(Copied {
            table: table.name,
            rows: written,
        });
    }
    if let Some(statement) = B::AFTER_COPY {
        target.rows(Statement::new(statement)).await?;
    }
    target.commit().await?;
    Ok(all)
}
