//! Statements as PostgreSQL runs them.

use crate::changes::Changes;
use crate::failure::failure;
use hearth_store::Result;
use hearth_store_sql::{Columns, Database, Session, Statement, Value};
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::{Row as _, Transaction};
use std::borrow::Cow;

/// A PostgreSQL database.
#[derive(Debug, Clone)]
pub struct Postgres {
    pool: PgPool,
    changes: Changes,
}

impl Postgres {
    pub(crate) fn new(pool: PgPool, changes: Changes) -> Self {
        Self { pool, changes }
    }

    /// Waits for running statements and closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A transaction in a PostgreSQL database.
pub struct PgSession(Transaction<'static, sqlx::Postgres>);

/// A row of a PostgreSQL database.
pub struct PgColumns(PgRow);

type Query = sqlx::query::Query<'static, sqlx::Postgres, PgArguments>;

fn query(statement: Statement) -> Query {
    let mut query = match statement.text {
        Cow::Borrowed(text) => sqlx::query(text),
        // Made of constants alone: see `Statement::text`.
        Cow::Owned(text) => sqlx::query(sqlx::AssertSqlSafe(text)),
    };
    for value in statement.values {
        query = match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
        };
    }
    query
}

impl Columns for PgColumns {
    fn text(&self, column: &str) -> Result<String> {
        self.0.try_get(column).map_err(failure)
    }

    fn text_option(&self, column: &str) -> Result<Option<String>> {
        self.0.try_get(column).map_err(failure)
    }

    fn number(&self, column: &str) -> Result<i64> {
        self.0.try_get(column).map_err(failure)
    }

    fn number_option(&self, column: &str) -> Result<Option<i64>> {
        self.0.try_get(column).map_err(failure)
    }
}

impl Session for PgSession {
    type Row = PgColumns;

    async fn execute(&mut self, statement: Statement) -> Result<u64> {
        let done = query(statement).execute(&mut *self.0).await;
        done.map(|done| done.rows_affected()).map_err(failure)
    }

    async fn rows(&mut self, statement: Statement) -> Result<Vec<PgColumns>> {
        let rows = query(statement).fetch_all(&mut *self.0).await;
        Ok(rows.map_err(failure)?.into_iter().map(PgColumns).collect())
    }

    async fn commit(self) -> Result<()> {
        self.0.commit().await.map_err(failure)
    }
}

impl Database for Postgres {
    type Row = PgColumns;
    type Session = PgSession;

    const NOW: &'static str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    const LOCK_ROWS: &'static str = " FOR UPDATE";
    const AFTER_COPY: Option<&'static str> = Some(
        "SELECT setval(pg_get_serial_sequence('build_assignments', 'sequence'),
            (SELECT max(sequence) FROM build_assignments))",
    );

    async fn begin(&self) -> Result<PgSession> {
        let begun = self.pool.begin().await;
        begun.map(PgSession).map_err(failure)
    }

    async fn execute(&self, statement: Statement) -> Result<u64> {
        let done = query(statement).execute(&self.pool).await;
        done.map(|done| done.rows_affected()).map_err(failure)
    }

    async fn rows(&self, statement: Statement) -> Result<Vec<PgColumns>> {
        let rows = query(statement).fetch_all(&self.pool).await;
        Ok(rows.map_err(failure)?.into_iter().map(PgColumns).collect())
    }

    async fn keys_changed(&self) -> Result<()> {
        self.changes.next().await;
        Ok(())
    }
}
