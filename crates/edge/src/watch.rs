//! Watches a client connection for slowness: a request's head that does not come
//! and a connection that is idle for too long. hyper's own timer counts idle time
//! as time spent on a head, and does not run before the protocol is known; hence
//! this one.
//!
//! The socket's reads and the service report to one small shared state; the
//! connection's task looks at it now and then. A reading of the clock that is late
//! by one look is harmless, so the counters need no lock.

use crate::config::ServerConfig;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
}

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooSlow {
    Head,
    Idle,
}

impl Pace {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            accepted: Instant::now(),
            open: AtomicUsize::new(0),
            multiplexed: AtomicBool::new(false),
            // The first head is due from the start.
            head_since: AtomicU64::new(0),
            active: AtomicU64::new(0),
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

    /// Completes when the connection is too slow.
    pub(crate) async fn too_slow(&self, config: &ServerConfig) -> TooSlow {
        let header_timeout = config.header_timeout();
        let idle_timeout = config.idle_timeout();
        let look = header_timeout.min(idle_timeout) / 4;
        loop {
            tokio::time::sleep(look.max(Duration::from_millis(1))).await;
            if self.open.load(Ordering::Relaxed) > 0 {
                continue;
            }
            let now = self.now();
            let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
            let head = self.head_since.load(Ordering::Relaxed);
            if head != NONE && since(head) >= header_timeout {
                return TooSlow::Head;
            }
            if since(self.active.load(Ordering::Relaxed)) >= idle_timeout {
                return TooSlow::Idle;
            }
        }
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
