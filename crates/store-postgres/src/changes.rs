//! Hearing that keys or teams changed, in whichever process.
//!
//! One task holds one connection for it. When that is lost, changes may have gone
//! unheard, so its loss counts as one; so does each failure to get another.

use sqlx::postgres::{PgListener, PgPool};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// What the trigger on keys and teams notifies.
const CHANNEL: &str = "hearth_keys";
const RETRY: Duration = Duration::from_secs(2);

/// Listens as long as a clone of it is there.
#[derive(Debug, Clone)]
pub(crate) struct Changes {
    /// One for all, so that what happens between two waits is not missed.
    heard: Arc<Mutex<watch::Receiver<u64>>>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Changes {
    pub(crate) fn start(pool: PgPool) -> Self {
        let (tell, heard) = watch::channel(0);
        let task = tokio::spawn(listen(pool, tell));
        Self {
            heard: Arc::new(Mutex::new(heard)),
            _task: Arc::new(Task(task)),
        }
    }

    /// Waits until there is a change that nobody has waited for. Of several who wait each
    /// change wakes one.
    pub(crate) async fn next(&self) {
        if self.heard.lock().await.changed().await.is_err() {
            // The listener has ended, with the runtime.
            std::future::pending().await
        }
    }
}

async fn listen(pool: PgPool, tell: watch::Sender<u64>) {
    loop {
        if let Err(error) = hear(&pool, &tell).await {
            tracing::debug!(%error, "listening for changes of keys failed");
        }
        tell.send_modify(|count| *count += 1);
        tokio::time::sleep(RETRY).await;
    }
}

async fn hear(pool: &PgPool, tell: &watch::Sender<u64>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    // What happened before there was a listener.
    tell.send_modify(|count| *count += 1);
    // None is the loss of the connection.
    while listener.try_recv().await?.is_some() {
        tell.send_modify(|count| *count += 1);
    }
    Ok(())
}
