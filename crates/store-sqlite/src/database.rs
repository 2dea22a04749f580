//! Statements as SQLite runs them, and its errors.

use hearth_store::{Error, Result};
use hearth_store_sql::{Columns, Database, Session, Statement, Value};
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{Row as _, Transaction};
use std::borrow::Cow;

/// A SQLite database.
#[derive(Debug, Clone)]
pub struct Sqlite {
    pool: SqlitePool,
}

impl Sqlite {
    pub(crate) fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Waits for running statements and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A transaction in a SQLite database.
pub struct SqliteSession(Transaction<'static, sqlx::Sqlite>);

/// A row of a SQLite database.
pub struct SqliteColumns(SqliteRow);

/// What a failure of SQLite's means to the store. Codes: <https://sqlite.org/rescode.html>.
pub(crate) fn failure(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::PoolTimedOut => return Error::Unreachable(Box::new(error)),
        sqlx::Error::Database(database) => {
            if database.is_unique_violation() {
                return Error::Conflict("the record");
            }
            if database.is_foreign_key_violation() {
                return Error::Dangling;
            }
            let code = database.code().and_then(|code| code.parse::<i32>().ok());
            // Extended codes hold the primary one in their lowest byte.
            match code.map(|code| code & 0xff) {
                // SQLITE_FULL
                Some(13) => return Error::Full,
                // SQLITE_READONLY
                Some(8) => return Error::ReadOnly,
                // SQLITE_BUSY
                Some(5) => return Error::Unreachable(Box::new(error)),
                _ => {}
            }
        }
        _ => {}
    }
    Error::Backend(Box::new(error))
}

type Query = sqlx::query::Query<'static, sqlx::Sqlite, SqliteArguments>;

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

impl Columns for SqliteColumns {
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

impl Session for SqliteSession {
    type Row = SqliteColumns;

    async fn execute(&mut self, statement: Statement) -> Result<u64> {
        let done = query(statement).execute(&mut *self.0).await;
        done.map(|done| done.rows_affected()).map_err(failure)
    }

    async fn rows(&mut self, statement: Statement) -> Result<Vec<SqliteColumns>> {
        let rows = query(statement).fetch_all(&mut *self.0).await;
        Ok(rows
            .map_err(failure)?
            .into_iter()
            .map(SqliteColumns)
            .collect())
    }

    async fn commit(self) -> Result<()> {
        self.0.commit().await.map_err(failure)
    }
}

impl Database for Sqlite {
    type Row = SqliteColumns;
    type Session = SqliteSession;

    const NOW: &'static str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
    // A transaction that writes has the whole file to itself.
    const LOCK_ROWS: &'static str = "";
    const AFTER_COPY: Option<&'static str> = None;

    async fn begin(&self) -> Result<SqliteSession> {
        let begun = self.pool.begin_with("BEGIN IMMEDIATE").await;
        begun.map(SqliteSession).map_err(failure)
    }

    async fn execute(&self, statement: Statement) -> Result<u64> {
        let done = query(statement).execute(&self.pool).await;
        done.map(|done| done.rows_affected()).map_err(failure)
    }

    async fn rows(&self, statement: Statement) -> Result<Vec<SqliteColumns>> {
        let rows = query(statement).fetch_all(&self.pool).await;
        Ok(rows
            .map_err(failure)?
            .into_iter()
            .map(SqliteColumns)
            .collect())
    }

    async fn keys_changed(&self) -> Result<()> {
        // Nobody tells: other processes' changes are seen when what is remembered is
        // old.
        std::future::pending().await
    }
}
