//! Whose VM starts now. A start keeps a processor busy from the restore to the agent's
//! answer; more of them at once than there are processors end later, all of them, and
//! cost more altogether: caches are cold for each, and guests that wait for a processor
//! meet their own timers. So starts take turns, first come, first served, and filling the
//! warm pool waits until no sandbox does.
//!
//! A turn does not outlast [`LONGEST_TURN`]: a guest that is slow to answer costs the
//! others a moment, and goes on beside them.

use std::{num::NonZero, pin::pin, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long a start keeps others waiting.
const LONGEST_TURN: Duration = Duration::from_secs(2);

pub(crate) struct Turns {
    /// Fair: who asked first goes first.
    free: Arc<Semaphore>,
    /// Starts of sandboxes that wait or are at it.
    wanted: watch::Sender<usize>,
    size: usize,
}

/// Counts a start as wanted for as long as it lives.
struct Wanted<'a>(&'a watch::Sender<usize>);

impl<'a> Wanted<'a> {
    fn new(wanted: &'a watch::Sender<usize>) -> Self {
        wanted.send_modify(|count| *count = count.saturating_add(1));
        Self(wanted)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// As many starts at once as the daemon may use processors.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl Turns {
    /// `size` starts at once; at least one.
    pub(crate) fn new(size: usize) -> Self {
        let size = size.max(1);
        Self {
            free: Arc::new(Semaphore::new(size)),
            wanted: watch::Sender::new(0),
            size,
        }
    }

    /// Runs a sandbox's start when it is its turn.
    pub(crate) async fn start<F: Future>(&self, start: F) -> F::Output {
        let _wanted = Wanted::new(&self.wanted);
        let turn = self.turn().await;
        let mut start = pin!(start);
        tokio::select! {
            biased;
            done = &mut start => return done,
            () = tokio::time::sleep(LONGEST_TURN) => drop(turn),
        }
        start.await
    }

    /// A turn for what nobody waits for: when there are fewer sandboxes to start than
    /// turns. Others' turns come meanwhile as this one lasts.
    pub(crate) async fn spare(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let mut wanted = self.wanted.subscribe();
            // The sender is this object's: it does not end while somebody waits.
            wanted.wait_for(|count| *count < self.size).await.ok()?;
            if let Ok(turn) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(turn);
            }
            // Taken since, or held by another spare turn.
            let turn = self.turn().await;
            if *self.wanted.borrow() < self.size {
                return turn;
            }
        }
    }

    /// `None` cannot be: the semaphore is never closed.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
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
        let turns = Arc::new(Turns::new(1));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (turns, seen) = (Arc::clone(&turns), Arc::clone(&seen));
            tasks.push(tokio::spawn(async move {
                let start = async {
                    seen.lock().unwrap().push((number, "begins"));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    seen.lock().unwrap().push((number, "ends"));
                };
                turns.start(start).await;
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
    async fn a_start_that_hangs_keeps_the_next_one_waiting_for_a_moment_only() {
        let turns = Arc::new(Turns::new(1));
        let hung = {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.start(std::future::pending::<()>()).await })
        };
        settle().await;
        let begun = tokio::time::Instant::now();
        turns.start(async {}).await;
        assert_eq!(begun.elapsed(), LONGEST_TURN);
        hung.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn spare_work_waits_for_sandboxes_and_a_start_that_is_given_up_is_not_waited_for() {
        let turns = Arc::new(Turns::new(1));
        let go = Arc::new(Notify::new());
        let start = {
            let (turns, go) = (Arc::clone(&turns), Arc::clone(&go));
            tokio::spawn(async move { turns.start(go.notified()).await })
        };
        settle().await;
        let given_up = {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.start(std::future::pending::<()>()).await })
        };
        settle().await;
        let spare = {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { turns.spare().await.is_some() })
        };
        settle().await;
        assert!(!spare.is_finished());
        given_up.abort();
        go.notify_one();
        start.await.unwrap();
        assert!(spare.await.unwrap());
        assert_eq!(*turns.wanted.borrow(), 0);
        assert_eq!(turns.free.available_permits(), 1);
    }
}
