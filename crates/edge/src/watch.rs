//! Watches a client connection for slowness: a request's head that does not come
//! and a connection that is idle for too long. hyper's own timer counts idle time
//! as time spent on a head, and does not run before the protocol is known; hence
//! this one.
//!
//! The socket's reads and the service report to one small shared state per
//! connection. One [`Keeper`] per server looks at all of them now and then, and tells
//! connections what they have to do; so a connection has no timer of its own, and
//! asking for orders costs it no lock. A reading of the clock that is late by one
//! look is harmless, so the counters need no lock either.

use crate::config::ServerConfig;
use futures::task::AtomicWaker;
use hearth_util::LockExt as _;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const NONE: u64 = u64::MAX;

/// What is known of a connection's pace.
pub(crate) struct Pace {
    accepted: Instant,
    open: AtomicUsize,
    /// HTTP/2 sends frames between requests; only idle time counts there.
    multiplexed: AtomicBool,
    /// Milliseconds after `accepted` at which a head's first byte came, or `NONE`.
    head_since: AtomicU64,
    /// Milliseconds after `accepted` of the last sign of life.
    active: AtomicU64,
    order: AtomicU8,
    /// The connection's task.
    task: AtomicWaker,
}

/// What a connection has to do. The later orders outdo the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    GoOn,
    /// Finish the open requests, take no more.
    Drain,
    /// End: it was idle for too long.
    EndIdle,
    /// End: a head took too long.
    EndSlow,
    /// End at once.
    Cut,
}

const ORDERS: [Order; 5] = [
    Order::GoOn,
    Order::Drain,
    Order::EndIdle,
    Order::EndSlow,
    Order::Cut,
];

/// Knows a server's connections.
#[derive(Default)]
pub(crate) struct Keeper {
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    paces: HashMap<u64, Arc<Pace>>,
    /// What new connections are told.
    order: Option<Order>,
}

impl Keeper {
    /// Adds a connection, until the guard is dropped.
    pub(crate) fn add(self: &Arc<Self>) -> Kept {
        let pace = Pace::new();
        let mut connections = self.connections();
        if let Some(order) = connections.order {
            pace.order(order);
        }
        let number = connections.next;
        connections.next += 1;
        connections.paces.insert(number, Arc::clone(&pace));
        drop(connections);
        Kept {
            keeper: Arc::clone(self),
            number,
            pace,
        }
    }

    /// Gives an order to all connections, also to those that come.
    pub(crate) fn order(&self, order: Order) {
        let mut connections = self.connections();
        connections.order = connections.order.max(Some(order));
        for pace in connections.paces.values() {
            pace.order(order);
        }
    }

    /// Ends connections that are too slow, for as long as it is polled.
    pub(crate) async fn look(&self, config: &ServerConfig) {
        let look = config.header_timeout().min(config.idle_timeout()) / 4;
        loop {
            tokio::time::sleep(look.max(Duration::from_millis(1))).await;
            for pace in self.connections().paces.values() {
                if let Some(order) = pace.judge(config) {
                    pace.order(order);
                }
            }
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock_unpoisoned()
    }
}

/// A connection that its keeper knows.
pub(crate) struct Kept {
    keeper: Arc<Keeper>,
    number: u64,
    pub(crate) pace: Arc<Pace>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.connections().paces.remove(&self.number);
        // A waker keeps the memory of its task, and a tunnel that the connection
        // became keeps the pace.
        self.pace.task.take();
    }
}

impl Pace {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            accepted: Instant::now(),
            open: AtomicUsize::new(0),
            multiplexed: AtomicBool::new(false),
            // The first head is due from the start.
            head_since: AtomicU64::new(0),
            active: AtomicU64::new(0),
            order: AtomicU8::new(Order::GoOn as u8),
            task: AtomicWaker::new(),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(NONE - 1)
    }

    fn bytes_came(&self) {
        if self.open.load(Ordering::Relaxed) == 0 && !self.multiplexed.load(Ordering::Relaxed) {
            let now = self.now();
            // Only the first byte of a head starts its time.
            let _ =
                self.head_since
                    .compare_exchange(NONE, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A request's head is complete; the request is open until the guard is dropped.
    pub(crate) fn request(self: &Arc<Self>, multiplexed: bool) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.multiplexed.store(multiplexed, Ordering::Relaxed);
        self.head_since.store(NONE, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// What to do; the task is woken when that changes.
    pub(crate) fn poll_order(&self, context: &Context<'_>) -> Order {
        self.task.register(context.waker());
        ORDERS[usize::from(self.order.load(Ordering::Acquire))]
    }

    fn order(&self, order: Order) {
        let before = self.order.fetch_max(order as u8, Ordering::AcqRel);
        if before < order as u8 {
            self.task.wake();
        }
    }

    /// Whether the connection is too slow.
    fn judge(&self, config: &ServerConfig) -> Option<Order> {
        if self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let now = self.now();
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        let head = self.head_since.load(Ordering::Relaxed);
        if head != NONE && since(head) >= config.header_timeout() {
            return Some(Order::EndSlow);
        }
        let active = since(self.active.load(Ordering::Relaxed));
        (active >= config.idle_timeout()).then_some(Order::EndIdle)
    }
}

/// Counts one open request.
pub(crate) struct OpenRequest(Arc<Pace>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.active.store(self.0.now(), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket whose reads are reported.
pub(crate) struct Watched<I> {
    io: I,
    pace: Arc<Pace>,
}

impl<I> Watched<I> {
    pub(crate) fn new(io: I, pace: Arc<Pace>) -> Self {
        Self { io, pace }
    }
}

impl<I: Read + Unpin> Read for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            self.pace.bytes_came();
        }
        read
    }
}

impl<I: Write + Unpin> Write for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}
