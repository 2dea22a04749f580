//! The threads that carry connections: one per processor, each with a runtime of
//! its own.
//!
//! A client's connection, its TLS and the connections to guests that its requests
//! use all live on one of them, so that no request wakes another thread. What
//! sandboxes share (their limits and counters) is shared by all threads; the kept
//! connections of an [upstream pool](crate::upstream) know whose they are.
//!
//! Whoever accepts deals new connections out, each to the thread that has the fewest:
//! that is fair without a word from the kernel, and every thread can be given
//! connections of every listener.
//!
//! What the edge asks of the rest of the process runs where the edge was made
//! ([`on_main_runtime`]): there are the timers, tasks and pools that it may use, and it cannot
//! hold up connections that have nothing to do with it.

use std::cell::Cell;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::{self, available_parallelism};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// What blocking work that a connection began (none, usually) gets to end in.
const BLOCKING_LIMIT: Duration = Duration::from_secs(1);

/// Whose a kept connection is. All threads outside of [`ConnectionThreads`] are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CoreId(u32);

const OUTSIDE: CoreId = CoreId(0);

thread_local! {
    static CURRENT: Cell<CoreId> = const { Cell::new(OUTSIDE) };
}

impl CoreId {
    /// That of this thread.
    pub(crate) fn current() -> Self {
        CURRENT.get()
    }

    /// One that no other thread of this process has.
    fn next() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A set of threads that carry connections. Cheap to clone; the threads end with
/// the last clone.
#[derive(Clone)]
pub struct ConnectionThreads {
    threads: Option<Arc<Threads>>,
}

struct Threads {
    cores: Vec<Core>,
    ended: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
}

struct Core {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl ConnectionThreads {
    /// Starts `count` threads; as many as there are processors when it is 0.
    pub fn start(count: usize) -> io::Result<Self> {
        let count = match count {
            0 => available_parallelism()?.get(),
            count => count,
        };
        let stop = CancellationToken::new();
        let mut threads = Threads {
            cores: Vec::with_capacity(count),
            ended: TaskTracker::new(),
            _stop: stop.clone().drop_guard(),
            stop,
        };
        for number in 0..count {
            let core = start(number, &threads)?;
            threads.cores.push(core);
        }
        threads.ended.close();
        Ok(Self {
            threads: Some(Arc::new(threads)),
        })
    }

    /// No threads: connections are carried by the runtime that accepts them.
    #[must_use]
    pub fn none() -> Self {
        Self { threads: None }
    }

    /// Ends the threads and what they still carry, and waits for them.
    pub async fn stop(self) {
        if let Some(threads) = self.threads {
            threads.stop.cancel();
            threads.ended.wait().await;
        }
    }

    /// Runs a connection's task on the thread that has the fewest of them.
    pub(crate) fn spawn<F>(&self, tasks: &TaskTracker, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let core = self
            .threads
            .as_ref()
            .and_then(|threads| threads.cores.iter().min_by_key(|core| core.count()));
        match core {
            None => tasks.spawn(connection),
            Some(core) => {
                let count = ConnectionCount::take(&core.connections);
                let seated = async move {
                    connection.await;
                    drop(count);
                };
                tasks.spawn_on(seated, &core.runtime)
            }
        };
    }
}

impl Core {
    fn count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn start(number: usize, threads: &Threads) -> io::Result<Core> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let core = Core {
        runtime: runtime.handle().clone(),
        connections: Arc::default(),
    };
    let (stop, running) = (threads.stop.clone(), threads.ended.token());
    thread::Builder::new()
        .name(format!("edge-{number}"))
        .spawn(move || {
            CURRENT.set(CoreId::next());
            runtime.block_on(stop.cancelled());
            runtime.shutdown_timeout(BLOCKING_LIMIT);
            drop(running);
        })?;
    Ok(core)
}

/// Counts a thread's connection, also when its task panics or is dropped.
struct ConnectionCount(Arc<AtomicUsize>);

impl ConnectionCount {
    fn take(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a future on the runtime `home` unless this is no thread of [`ConnectionThreads`]. Dropped
/// and panicking as if it ran here.
pub(crate) async fn on_main_runtime<F>(home: &Handle, future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    if CoreId::current() == OUTSIDE {
        return future.await;
    }
    match AbortOnDropHandle::new(home.spawn(future)).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is gone, and so is the process, soon.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    async fn name_of_thread(
        cores: &ConnectionThreads,
        tasks: &TaskTracker,
    ) -> (String, mpsc::Sender<()>) {
        let (told, mut tell) = mpsc::channel(1);
        let (stay, mut stays) = mpsc::channel(1);
        cores.spawn(tasks, async move {
            let name = thread::current().name().unwrap_or_default().to_owned();
            told.send(name).await.expect("somebody listens");
            stays.recv().await;
        });
        (tell.recv().await.expect("the task tells"), stay)
    }

    #[tokio::test]
    async fn connections_go_to_the_thread_with_the_fewest() {
        let cores = ConnectionThreads::start(3).expect("threads");
        let tasks = TaskTracker::new();
        let mut open = Vec::new();
        for _ in 0..9 {
            open.push(name_of_thread(&cores, &tasks).await);
        }
        for number in 0..3 {
            let name = format!("edge-{number}");
            assert_eq!(open.iter().filter(|(on, _)| *on == name).count(), 3);
        }
        open.retain(|(name, _)| name != "edge-1");
        // The ends of its three are noticed one after the other.
        let threads = cores.threads.as_ref().expect("there are");
        while threads.cores[1].count() > 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            let (name, stay) = name_of_thread(&cores, &tasks).await;
            assert_eq!(name, "edge-1");
            open.push((name, stay));
        }
        drop(open);
        tasks.close();
        tasks.wait().await;
        cores.stop().await;
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection_and_frees_its_seat() {
        let cores = ConnectionThreads::start(1).expect("threads");
        let tasks = TaskTracker::new();
        cores.spawn(&tasks, async { panic!("one connection's") });
        tasks.close();
        tasks.wait().await;
        let threads = cores.threads.as_ref().expect("there are");
        while threads.cores[0].count() > 0 {
            tokio::task::yield_now().await;
        }
        let (name, _) = name_of_thread(&cores, &tasks).await;
        assert_eq!(name, "edge-0");
        cores.stop().await;
    }

    #[tokio::test]
    async fn stopping_ends_what_is_carried() {
        let cores = ConnectionThreads::start(2).expect("threads");
        let tasks = TaskTracker::new();
        cores.spawn(&tasks, std::future::pending());
        cores.spawn(&tasks, std::future::pending());
        cores.stop().await;
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn the_rest_of_the_process_is_asked_at_home() {
        let cores = ConnectionThreads::start(1).expect("threads");
        let home = Handle::current();
        let (told, mut tell) = mpsc::channel(2);
        cores.spawn(&TaskTracker::new(), async move {
            let there = CoreId::current();
            let on_main_runtime =
                on_main_runtime(&home, async { (CoreId::current(), Handle::current().id()) });
            let (core, runtime) = on_main_runtime.await;
            let told = told.send((there, core, runtime)).await;
            told.expect("somebody listens");
        });
        let (there, core, runtime) = tell.recv().await.expect("the task tells");
        assert_ne!(there, OUTSIDE);
        assert_eq!(core, OUTSIDE);
        assert_eq!(runtime, Handle::current().id());
        // Who no longer waits for an answer ends the question.
        let (home, (asked, mut asks)) = (Handle::current(), mpsc::channel::<()>(1));
        cores.spawn(&TaskTracker::new(), async move {
            let question = on_main_runtime(&home, async move {
                let _asked = asked;
                std::future::pending::<()>().await;
            });
            let _ = tokio::time::timeout(Duration::from_millis(10), question).await;
        });
        assert_eq!(asks.recv().await, None);
        cores.stop().await;
    }
}
