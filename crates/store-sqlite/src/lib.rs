//! The SQLite backend: one file, its owner alone may read it, WAL so that
//! readers do not wait for the writer.
//!
//! Writes take SQLite's one write lock at their start (`BEGIN IMMEDIATE`), so a
//! transaction that has read never fails when it comes to write; whoever waits
//! for the lock gives up after [`BUSY_TIMEOUT`]. Several processes may have the file
//! open.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod database;

pub use database::Sqlite;

use hearth_store::{Error, Result};
use hearth_store_sql::SqlStore;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

/// How long a statement waits for another one's write lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u32 = 4;
/// How long a caller waits for one of the connections.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The store in a SQLite database.
pub type SqliteStore = SqlStore<Sqlite>;

/// Opens the database file at `path`, making it (mode 0600) when there is none, and
/// brings it to the present schema.
///
/// # Errors
/// [`Error::Open`] when the file cannot be made or is no database; [`Error::Migrate`]
/// when it is one of a newer version.
pub async fn open(path: impl AsRef<Path>) -> Result<SqliteStore> {
    let path = path.as_ref();
    let unopened = |source| Error::Open {
        path: path.display().to_string(),
        source,
    };
    restrict(path).map_err(|error| unopened(error.into()))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // A power cut must not lose a key that was shown to its owner.
        .synchronous(SqliteSynchronous::Full);
    connect(options, MAX_CONNECTIONS)
        .await
        .map_err(|error| match error {
            Error::Backend(source) | Error::Unreachable(source) => unopened(source),
            other => other,
        })
}

/// A database that lives as long as this process, for tests.
///
/// # Errors
/// When SQLite cannot be used at all.
pub async fn in_memory() -> Result<SqliteStore> {
    // Connections to the same address share one database, which ends with the last of them.
    let options = SqliteConnectOptions::from_str("sqlite::memory:").map_err(database::failure)?;
    // The pool closes a connection in whose query a future was dropped.
    Box::leak(Box::new(
        options.connect().await.map_err(database::failure)?,
    ));
    // Two at once would have to wait for each other's tables, which no busy timeout does.
    connect(options, 1).await
}

async fn connect(options: SqliteConnectOptions, connections: u32) -> Result<SqliteStore> {
    let options = options.foreign_keys(true).busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        // No connection beside the first one while that makes the file: changing the
        // journal's mode waits for nobody, whatever the busy timeout says.
        .min_connections(0)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(database::failure)?;
    MIGRATIONS
        .run(&pool)
        .await
        .map_err(|error| Error::Migrate(Box::new(error)))?;
    Ok(SqlStore::new(Sqlite::new(pool)))
}

/// Makes sure that the file exists and only its owner can use it. SQLite gives
/// its side files the mode of the main one.
fn restrict(path: &Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o177 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}
