//! How much work on volumes' file systems runs at once.

use hearth_control::Error;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Calls of volumes' file systems that run at the same time.
const PLACES: usize = 32;
/// Counts of what volumes hold that run at the same time.
const COUNTING_PLACES: usize = 2;

/// Places for work on volumes' content.
#[derive(Clone)]
pub(crate) struct ContentPermits(Arc<Semaphore>);

impl ContentPermits {
    pub(crate) fn for_content() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }

    /// Apart, as counting takes long.
    pub(crate) fn for_counting() -> Self {
        Self(Arc::new(Semaphore::new(COUNTING_PLACES)))
    }

    /// Runs work that may block, when there is a place for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::result::Result<T, Error> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.map_err(Error::internal)?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(Error::internal)
    }
}
