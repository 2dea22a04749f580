//! What a backend does: run statements, alone or in a transaction.

use crate::Statement;
use hearth_store::Result;
use std::future::Future;

/// A row, by the names of its columns. Errors are [`hearth_store::Error::Corrupt`],
/// or [`hearth_store::Error::Backend`] when there is no such column.
pub trait Columns: Send {
    /// A text.
    fn text(&self, column: &str) -> Result<String>;
    /// A text or nothing.
    fn text_option(&self, column: &str) -> Result<Option<String>>;
    /// A number.
    fn number(&self, column: &str) -> Result<i64>;
    /// A number or nothing.
    fn number_option(&self, column: &str) -> Result<Option<i64>>;
}

/// Where statements run: one connection, within a transaction.
pub trait Session: Send {
    /// What comes back.
    type Row: Columns;

    /// Runs a statement and answers how many rows it changed.
    fn execute(&mut self, statement: Statement) -> impl Future<Output = Result<u64>> + Send;

    /// Runs a statement and answers its rows.
    fn rows(&mut self, statement: Statement)
    -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// Runs a statement and answers its first row, if there is one.
    fn row(
        &mut self,
        statement: Statement,
    ) -> impl Future<Output = Result<Option<Self::Row>>> + Send {
        async move { Ok(self.rows(statement).await?.into_iter().next()) }
    }

    /// Ends the transaction: what was written is on disk. Dropping the session instead
    /// undoes all of it.
    fn commit(self) -> impl Future<Output = Result<()>> + Send;
}

/// A database. Statements that run on it directly are transactions by themselves.
pub trait Database: Clone + Send + Sync + 'static {
    /// What comes back.
    type Row: Columns;
    /// A transaction.
    type Session: Session<Row = Self::Row>;

    /// The time in milliseconds since 1970, as an expression.
    const NOW: &'static str;
    /// What ends a query whose rows nobody else may write until the transaction ends,
    /// where beginning to write is not enough for that.
    const LOCK_ROWS: &'static str;

    /// What is to be run after rows were copied with the numbers that another database
    /// gave them.
    const AFTER_COPY: Option<&'static str>;

    /// Waits until keys or teams may have changed, in whichever process. Never where the
    /// database does not tell.
    fn keys_changed(&self) -> impl Future<Output = Result<()>> + Send;

    /// Begins a transaction that writes.
    fn begin(&self) -> impl Future<Output = Result<Self::Session>> + Send;

    /// Runs a statement and answers how many rows it changed.
    fn execute(&self, statement: Statement) -> impl Future<Output = Result<u64>> + Send;

    /// Runs a statement and answers its rows.
    fn rows(&self, statement: Statement) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// Runs a statement and answers its first row, if there is one.
    fn row(&self, statement: Statement) -> impl Future<Output = Result<Option<Self::Row>>> + Send {
        async move { Ok(self.rows(statement).await?.into_iter().next()) }
    }
}
