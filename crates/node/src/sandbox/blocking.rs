//! Work of a sandbox that would hold up other tasks.

use crate::error::Error;
use std::io;

/// Does work on files that may take its time, on a thread of its own. The error names the step.
pub(super) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    blocking_with(step, work).await
}

/// The same for work that fails in another way.
pub(super) async fn blocking_with<T, E>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Error>
where
    T: Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::step(step))?
        .map_err(Error::step(step))
}
