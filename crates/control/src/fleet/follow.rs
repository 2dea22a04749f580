//! Following the node's watch: begun, gone on with after an interruption, begun anew.

use super::{Fleet, Known, Table};
use crate::node::{NodeError, Revision, SandboxBatch};
use futures::StreamExt as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How soon a watch that ended is begun again, growing from failure to failure.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

impl Fleet {
    /// Keeps the table fed until `stop`.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ended = self.watch_once() => match ended {
                    Ended::Never => break,
                    Ended::AtWork => retry = FIRST_RETRY,
                    Ended::AtOnce => {}
                }
            }
            self.lock().down();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
            }
        }
        self.lock().down();
    }

    async fn watch_once(&self) -> Ended {
        let mut news = match self.node.watch(self.place()).await {
            Ok(news) => news,
            Err(error @ NodeError::Unimplemented(_)) => {
                tracing::info!(%error, "watch node failed: it is asked instead");
                return Ended::Never;
            }
            Err(error) => {
                tracing::warn!(%error, "watch node failed");
                return Ended::AtOnce;
            }
        };
        let mut ended = Ended::AtOnce;
        loop {
            let batch = tokio::select! {
                biased;
                () = self.estranged.notified() => return ended,
                batch = news.next() => batch,
            };
            match batch {
                Some(Ok(batch)) => {
                    self.lock().take(batch);
                    ended = Ended::AtWork;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watch node failed");
                    return ended;
                }
                None => return ended,
            }
        }
    }

    /// Where the next watch goes on, if a former one came anywhere.
    fn place(&self) -> Option<Revision> {
        let place = self.lock().table.position();
        (place.sequence > 0).then_some(place)
    }
}

/// How a watch ended.
enum Ended {
    /// Something was told before.
    AtWork,
    AtOnce,
    /// There is nothing to watch.
    Never,
}

impl Known {
    /// Takes a word of the watch in.
    fn take(&mut self, batch: SandboxBatch) {
        let complete = batch.complete;
        if batch.reset {
            // So much went by that what is known may be old.
            self.down();
            self.staged = Some(Table::of(batch.current.instance));
        }
        if let Some(staged) = &mut self.staged {
            staged.take(batch, |_| {});
            if complete && let Some(staged) = self.staged.take() {
                self.table = staged;
                self.live = true;
            }
            return;
        }
        let Self { table, waiting, .. } = self;
        table.take(batch, |id| {
            if let Some(woken) = waiting.remove(id) {
                woken.notify_waiters();
            }
        });
        self.live |= complete;
    }
}
