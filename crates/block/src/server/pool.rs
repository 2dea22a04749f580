//! A few threads for requests that may wait for a disk. They start when there
//! is work and end when there has been none for a while. The queue is bounded
//! by its users: each connection has a limited number of requests in flight.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const MAX_WORKERS: usize = 4;
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    workers: usize,
    closed: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
        }
    }

    /// Hands a job to a worker, or runs it here if no thread can be had.
    pub(super) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        if state.idle <= state.jobs.len() && state.workers < MAX_WORKERS {
            let pool = self.clone();
            let spawned = std::thread::Builder::new()
                .name("nbd-disk".into())
                .spawn(move || pool.work());
            match spawned {
                Ok(thread) => {
                    state.workers += 1;
                    state.threads.retain(|thread| !thread.is_finished());
                    state.threads.push(thread);
                }
                Err(_) if state.workers == 0 => {
                    drop(state);
                    return job();
                }
                Err(_) => {}
            }
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        self.work.notify_one();
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A panic ends one connection (see `connection::Flight`), not the worker.
                drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, timeout) = self
                .work
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.workers -= 1;
    }

    /// Lets the workers end when the queue is empty.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }

    /// Closes and waits for the workers.
    pub(super) fn stop(&self) {
        self.close();
        let threads = std::mem::take(&mut self.lock().threads);
        for thread in threads {
            drop(thread.join());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
