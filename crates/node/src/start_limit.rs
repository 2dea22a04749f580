//! How many VMs start at once. A start keeps a processor busy from the restore to the agent's
//! answer; more of them at once than there are processors end later, all of them, and cost
//! more altogether: caches are cold for each, and guests that wait for a processor meet their
//! own timers. So there is a permit per processor, given out in the order of the requests;
//! filling the warm pool waits until a sandbox would get one at once.
//!
//! A permit is held for [`LONGEST`] at most: a guest that is slow to answer, or a template
//! whose rehearsal hangs, costs the others a moment, and goes on beside them.

use std::{num::NonZero, pin::pin, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long a start keeps others waiting.
const LONGEST: Duration = Duration::from_secs(2);

pub(crate) struct StartLimit {
    /// Fair: who asked first goes first.
    permits: Arc<Semaphore>,
    /// Sandboxes that wait for a permit or hold one.
    sandboxes: watch::Sender<usize>,
    size: usize,
}

/// A start that may go on. Dropped, or [held](Self::hold) for too long, another may begin.
pub(crate) struct StartPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Counts a sandbox for as long as it lives.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(sandboxes: &'a watch::Sender<usize>) -> Self {
        sandboxes.send_modify(|count| *count = count.saturating_add(1));
        Self(sandboxes)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Runs a start, and gives up what lets it run when that takes long.
async fn hold<F: Future>(held: impl Sized, start: F) -> F::Output {
    let mut start = pin!(start);
    tokio::select! {
        biased;
        done = &mut start => return done,
        () = tokio::time::sleep(LONGEST) => drop(held),
    }
    start.await
}

impl StartPermit {
    /// Runs what the permit is for.
    pub(crate) async fn hold<F: Future>(self, start: F) -> F::Output {
        hold(self, start).await
    }
}

/// As many starts at once as the daemon may use processors.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl StartLimit {
    /// `size` starts at once; at least one.
    pub(crate) fn new(size: usize) -> Self {
        let size = size.max(1);
        Self {
            permits: Arc::new(Semaphore::new(size)),
            sandboxes: watch::Sender::new(0),
            size,
        }
    }

    /// Runs a sandbox's start as soon as it may.
    pub(crate) async fn start<F: Future>(&self, start: F) -> F::Output {
        let counted = Counted::new(&self.sandboxes);
        let permit = self.acquire().await;
        hold((permit, counted), start).await
    }

    /// A permit for what nobody waits for: when fewer sandboxes start than there are permits.
    pub(crate) async fn background(&self) -> StartPermit {
        let mut sandboxes = self.sandboxes.subscribe();
        loop {
            // The sender is this object's: it does not end while somebody waits.
            let _ = sandboxes.wait_for(|count| *count < self.size).await;
            let permit = self.acquire().await;
            // Others may have come while this one waited.
            if *self.sandboxes.borrow() < self.size {
                return permit;
            }
        }
    }

    async fn acquire(&self) -> StartPermit {
        StartPermit {
            // Never an error: the semaphore is never closed.
            _permit: Arc::clone(&self.permits).acquire_owned().await.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::{sync::Notify, task::yield_now};

    /// Lets every task come to its wait.
    async fn settle() {
        for _ in 0..50 {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn starts_go_one_after_another_in_the_order_of_their_coming() {
        let limit = Arc::new(StartLimit::new(1));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (limit, seen) = (Arc::clone(&limit), Arc::clone(&seen));
            tasks.push(tokio::spawn(async move {
                let start = async {
                    seen.lock().unwrap().push((number, "begins"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    seen.lock().unwrap().push((number, "ends"));
                };
                limit.start(start).await;
            }));
            settle().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        let expected: Vec<_> = (0..5)
            .flat_map(|number| [(number, "begins"), (number, "ends")])
            .collect();
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_hangs_keeps_others_waiting_for_a_moment_only() {
        let limit = Arc::new(StartLimit::new(1));
        let hung = {
            let limit = Arc::clone(&limit);
            tokio::spawn(async move { limit.start(std::future::pending::<()>()).await })
        };
        settle().await;
        let begun = tokio::time::Instant::now();
        limit.start(async {}).await;
        assert_eq!(begun.elapsed(), LONGEST);
        // Nor is it waited for by what goes on in the background.
        drop(limit.background().await);
        assert_eq!(begun.elapsed(), LONGEST);
        hung.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn background_work_that_hangs_keeps_sandboxes_waiting_for_a_moment_only() {
        let limit = Arc::new(StartLimit::new(1));
        let hung = {
            let limit = Arc::clone(&limit);
            tokio::spawn(async move {
                let permit = limit.background().await;
                permit.hold(std::future::pending::<()>()).await;
            })
        };
        settle().await;
        let begun = tokio::time::Instant::now();
        limit.start(async {}).await;
        assert_eq!(begun.elapsed(), LONGEST);
        hung.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn background_work_waits_for_sandboxes_and_not_for_those_that_were_given_up() {
        let limit = Arc::new(StartLimit::new(1));
        let go = Arc::new(Notify::new());
        let start = {
            let (limit, go) = (Arc::clone(&limit), Arc::clone(&go));
            tokio::spawn(async move { limit.start(go.notified()).await })
        };
        settle().await;
        let given_up = {
            let limit = Arc::clone(&limit);
            tokio::spawn(async move { limit.start(std::future::pending::<()>()).await })
        };
        settle().await;
        let background = {
            let limit = Arc::clone(&limit);
            tokio::spawn(async move { drop(limit.background().await) })
        };
        settle().await;
        assert!(!background.is_finished());
        given_up.abort();
        go.notify_one();
        start.await.unwrap();
        background.await.unwrap();
        assert_eq!(*limit.sandboxes.borrow(), 0);
        assert_eq!(limit.permits.available_permits(), 1);
    }
}
