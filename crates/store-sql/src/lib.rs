//! The store over an SQL database: one text of each statement for all backends.
//!
//! ```text
//!  Store ◀── SqlStore<D> ──statements──▶ D: Database   hearth-store-sqlite
//!            a file per resource                       hearth-store-postgres
//! ```
//!
//! Statements are in the language that SQLite and PostgreSQL share: `$1` for values,
//! texts and 64 bit integers for columns (times are milliseconds since 1970, truth
//! values 0 and 1, ids their text form). A backend runs them and says in its own words
//! the few things that have none in common: the time, and that a row is to be locked.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod api_key;
mod build;
mod build_request;
mod copy;
mod database;
mod delivery;
mod discard;
mod event;
mod idempotency;
mod lease;
mod node;
mod node_identity;
mod row;
mod snapshot;
mod statement;
mod tag;
mod team;
mod template;
mod usage;
mod volume;
mod webhook;

pub use copy::{Copied, copy};
pub use database::{Columns, Database, Session};
pub use statement::{Statement, Value};

use chrono::{DateTime, Utc};
use hearth_store::Error;

/// The store over a database.
#[derive(Debug, Clone)]
pub struct SqlStore<D> {
    database: D,
}

impl<D> SqlStore<D> {
    /// A store over a database that has the present schema.
    pub fn new(database: D) -> Self {
        Self { database }
    }

    /// The database.
    pub fn database(&self) -> &D {
        &self.database
    }
}

/// Names what was taken, where a statement can only conflict over one thing.
fn conflict(what: &'static str) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Conflict(_) => Error::Conflict(what),
        other => other,
    }
}

fn millis(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis()
}

/// A length in milliseconds that can be added to any time.
fn length(length: std::time::Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX / 2)
}
