//! The PostgreSQL backend: one database for any number of processes, on any number of
//! machines.
//!
//! Statements are those of `hearth-store-sql`. Transactions run at READ COMMITTED: each
//! says in its writes from where it leads, or locks the rows that it decides by. The
//! schema is brought up to date under an advisory lock, so that processes may start at
//! the same time. A trigger tells when keys or teams change, and [`Postgres`] hears it.
//! TLS is rustls, with the system's authorities, as `sslmode` in the address says.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod changes;
mod database;
mod failure;

pub use database::Postgres;

use hearth_store::{Error, Result};
use hearth_store_sql::SqlStore;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::str::FromStr;
use std::time::Duration;

/// Connections of one process; a server takes 100 in all where nothing else is set.
const MAX_CONNECTIONS: u32 = 16;
/// How long a caller waits for one of the connections.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The store in a PostgreSQL database.
pub type PostgresStore = SqlStore<Postgres>;

/// Connects to the database at `url` (`postgres://user:password@host/database`) and brings
/// it to the present schema.
///
/// # Errors
/// [`Error::Open`], which says what to do: no server, a wrong password, no such database,
/// one that takes no writes. [`Error::Migrate`] for a database of a newer version.
pub async fn open(url: &str) -> Result<PostgresStore> {
    let options = PgConnectOptions::from_str(url).map_err(|error| failure::unopened(url, error))?;
    let options = options.application_name("hearth");
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .connect_with(options)
        .await
        .map_err(|error| failure::unopened(url, error))?;
    migrate(&pool, url).await?;
    let changes = changes::Changes::start(pool.clone());
    Ok(SqlStore::new(Postgres::new(pool, changes)))
}

async fn migrate(pool: &PgPool, url: &str) -> Result<()> {
    let Err(error) = MIGRATIONS.run(pool).await else {
        return Ok(());
    };
    let error = failure::of_migration(error).map_err(|error| Error::Migrate(Box::new(error)))?;
    // A database that takes no writes for the moment can still be read from.
    if failure::is_read_only(&error) && schema_is_present(pool).await {
        return Ok(());
    }
    Err(failure::unopened(url, error))
}

/// Whether every migration was carried out, found out without writing.
async fn schema_is_present(pool: &PgPool) -> bool {
    let done: std::result::Result<Vec<(i64,)>, _> =
        sqlx::query_as("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(pool)
            .await;
    let wanted = MIGRATIONS.iter().map(|migration| migration.version);
    done.is_ok_and(|done| done.into_iter().map(|(version,)| version).eq(wanted))
}
