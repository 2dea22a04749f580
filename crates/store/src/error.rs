//! Why the store did not do what it was asked.

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what it was asked. Nothing was changed, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name or id is taken.
    #[error("{0} already exists")]
    Conflict(&'static str),
    /// A row refers to something that is not there.
    #[error("a referenced record does not exist")]
    Dangling,
    /// What the caller held until a moment ago was taken over by another process.
    #[error("{0} was taken over by another process")]
    TakenOver(&'static str),
    /// No space left.
    #[error("no space left for the database")]
    Full,
    /// The database takes no writes.
    #[error("the database is read-only")]
    ReadOnly,
    /// The database cannot be reached, or has no connection to spare, for now.
    #[error("the database cannot be reached")]
    Unreachable(#[source] BoxError),
    /// A row holds what no version of this program wrote.
    #[error("a stored {what} is malformed: {text:?}")]
    Corrupt {
        /// What should stand there.
        what: &'static str,
        /// What stands there.
        text: String,
    },
    /// The database could not be opened at all.
    #[error("open the database {path}")]
    Open {
        /// The file, or the address without its password.
        path: String,
        /// Why.
        source: BoxError,
    },
    /// The schema could not be brought to the present one.
    #[error("bring the database to the present schema")]
    Migrate(#[source] BoxError),
    /// Anything else.
    #[error("use the database")]
    Backend(#[source] BoxError),
}

/// What every method of the store answers.
pub type Result<T> = std::result::Result<T, Error>;
