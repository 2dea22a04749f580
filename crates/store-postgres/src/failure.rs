//! What PostgreSQL's failures mean to the store, and to whoever set it up. Codes:
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use hearth_store::Error;
use sqlx::migrate::MigrateError;

/// Why there is no database, and what helps.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the address is malformed; it looks like postgres://user:password@host/database")]
    Address(#[source] sqlx::Error),
    #[error("no PostgreSQL answers there: is it running, and does it listen at that address?")]
    NoServer(#[source] sqlx::Error),
    #[error("the server refuses user or password: check both, and the server's pg_hba.conf")]
    Login(#[source] sqlx::Error),
    #[error("there is no such database: make it with `createdb`")]
    NoDatabase(#[source] sqlx::Error),
    #[error("the server has no connection to spare: raise its max_connections")]
    Connections(#[source] sqlx::Error),
    #[error("the database is read-only: name the primary server, and not a standby")]
    ReadOnly(#[source] sqlx::Error),
    #[error("the user may not make tables: it needs CREATE on the schema")]
    Rights(#[source] sqlx::Error),
    #[error("TLS with the server failed: check its certificate, and sslmode and sslrootcert")]
    Tls(#[source] sqlx::Error),
    #[error(transparent)]
    Other(sqlx::Error),
}

/// read_only_sql_transaction
const READ_ONLY: &str = "25006";

fn code(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// Whether the database takes no writes.
pub(crate) fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some(READ_ONLY)
}

/// A failure of a statement.
pub(crate) fn failure(error: sqlx::Error) -> Error {
    let away = matches!(
        error,
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed
    );
    if away {
        return Error::Unreachable(Box::new(error));
    }
    match code(&error).as_deref() {
        Some("23505") => Error::Conflict("the record"),
        Some("23503") => Error::Dangling,
        // disk_full
        Some("53100") => Error::Full,
        Some(READ_ONLY) => Error::ReadOnly,
        // too_many_connections, admin_shutdown, crash_shutdown, cannot_connect_now
        Some("53300" | "57P01" | "57P02" | "57P03") => Error::Unreachable(Box::new(error)),
        // connection_exception
        Some(code) if code.starts_with("08") => Error::Unreachable(Box::new(error)),
        _ => Error::Backend(Box::new(error)),
    }
}

/// A failure to get at the database at all.
pub(crate) fn unopened(url: &str, error: sqlx::Error) -> Error {
    let code = code(&error);
    let refusal = match (&error, code.as_deref()) {
        (sqlx::Error::Configuration(_), _) => Refusal::Address(error),
        (sqlx::Error::Tls(_), _) => Refusal::Tls(error),
        (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut, _) | (_, Some("57P03")) => {
            Refusal::NoServer(error)
        }
        // invalid_password, invalid_authorization_specification
        (_, Some("28P01" | "28000")) => Refusal::Login(error),
        (_, Some("3D000")) => Refusal::NoDatabase(error),
        (_, Some("53300")) => Refusal::Connections(error),
        (_, Some(READ_ONLY)) => Refusal::ReadOnly(error),
        // insufficient_privilege
        (_, Some("42501")) => Refusal::Rights(error),
        _ => Refusal::Other(error),
    };
    Error::Open {
        path: without_password(url),
        source: Box::new(refusal),
    }
}

/// What the server refused while the schema was brought up to date, or what is wrong with
/// the schema itself.
pub(crate) fn of_migration(error: MigrateError) -> Result<sqlx::Error, MigrateError> {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Ok(error),
        other => Err(other),
    }
}

/// An address as it may stand in a log.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "(an address without scheme)".to_owned();
    };
    // A password may stand in the parameters, too.
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let shown = match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{user}@{host}")
        }
        None => rest.to_owned(),
    };
    format!("{scheme}://{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("postgres://u:p@h/d", "postgres://u@h/d"),
            ("postgres://u:p@ss@h:5432/d?x=1", "postgres://u@h:5432/d"),
            ("postgres://h/d?password=p", "postgres://h/d"),
            ("postgres:///d", "postgres:///d"),
            ("u:p@h", "(an address without scheme)"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
