//! How much of the host's disk one device's clients may use.
//!
//! Two token buckets, of operations and of bytes. A request is never refused and never cut:
//! it takes what it needs, into debt if it must, and the client's next one waits until the
//! debt is paid. So a request that is larger than the bucket passes, and the long run is
//! exact. Reads that the host's page cache answers are free: they cost its disk nothing.
//!
//! No clock of its own: the time is given.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// How soon a client that waits notices that the limits are lifted.
const LOOK: Duration = Duration::from_millis(20);

/// What the clients of one device may do in the long run. 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoLimits {
    /// Reads from disk, writes, flushes and discards per second.
    pub operations_per_second: u32,
    /// Bytes read from disk and written, per second.
    pub bytes_per_second: u64,
    /// For how many seconds' worth a device that was idle may do at once; at least one.
    pub burst_seconds: u32,
}

/// The buckets of one device.
#[derive(Debug)]
pub(crate) struct Throttle {
    buckets: Option<Mutex<Buckets>>,
    /// How many want it lifted now.
    lifted: AtomicUsize,
}

#[derive(Debug)]
struct Buckets {
    operations: Bucket,
    bytes: Bucket,
    filled: Instant,
}

#[derive(Debug)]
struct Bucket {
    /// Per second; 0 for any number.
    rate: f64,
    most: f64,
    /// Below zero: debt.
    left: f64,
}

impl Throttle {
    pub(crate) fn new(limits: IoLimits, now: Instant) -> Self {
        let limited = limits.operations_per_second > 0 || limits.bytes_per_second > 0;
        let burst = f64::from(limits.burst_seconds.max(1));
        let bucket = |rate: f64| Bucket {
            rate,
            most: rate * burst,
            left: rate * burst,
        };
        Self {
            lifted: AtomicUsize::new(0),
            buckets: limited.then(|| {
                Mutex::new(Buckets {
                    operations: bucket(f64::from(limits.operations_per_second)),
                    bytes: bucket(limits.bytes_per_second as f64),
                    filled: now,
                })
            }),
        }
    }

    /// One operation with so many bytes is about to be done: for how long its client is to
    /// wait before the next one.
    pub(crate) fn charge(&self, bytes: u64, now: Instant) -> Duration {
        let Some(buckets) = self.buckets.as_ref().filter(|_| !self.is_lifted()) else {
            return Duration::ZERO;
        };
        // Whole between any two statements.
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(buckets.filled).as_secs_f64();
        buckets.filled = buckets.filled.max(now);
        let operations = buckets.operations.take(1.0, passed);
        let bytes = buckets.bytes.take(bytes as f64, passed);
        Duration::from_secs_f64(operations.max(bytes))
    }

    /// Nothing is charged and nobody waits until as many calls of [`Self::lower`].
    pub(crate) fn lift(&self) {
        self.lifted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn lower(&self) {
        self.lifted.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_lifted(&self) -> bool {
        self.lifted.load(Ordering::Relaxed) > 0
    }

    /// Waits, unless the client goes, its connection is cut off, or the limits are lifted.
    pub(crate) fn pause(&self, connection: &UnixStream, wait: Duration) -> io::Result<()> {
        let until = Instant::now() + wait;
        while !self.is_lifted() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // No event is asked for: the end of a connection is told all the same.
            let mut watched = [PollFd::new(connection, PollFlags::empty())];
            let timeout = Timespec::try_from(left.min(LOOK)).map_err(io::Error::other)?;
            match rustix::event::poll(&mut watched, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Bucket {
    /// Takes `amount` after so many more seconds; in how many the debt is paid.
    fn take(&mut self, amount: f64, passed: f64) -> f64 {
        if self.rate <= 0.0 {
            return 0.0;
        }
        self.left = (self.left + passed * self.rate).min(self.most) - amount;
        (-self.left).max(0.0) / self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn limits(operations: u32, bytes: u64, burst: u32) -> IoLimits {
        IoLimits {
            operations_per_second: operations,
            bytes_per_second: bytes,
            burst_seconds: burst,
        }
    }

    /// How long a client that never pauses takes for these requests, on a simulated clock.
    fn time_for(limits: IoLimits, requests: &[u64]) -> Duration {
        let start = Instant::now();
        let throttle = Throttle::new(limits, start);
        let mut now = start;
        for bytes in requests {
            now += throttle.charge(*bytes, now);
        }
        now - start
    }

    #[test]
    fn nothing_is_charged_while_the_limits_are_lifted() {
        let start = Instant::now();
        let throttle = Throttle::new(limits(10, 0, 1), start);
        throttle.lift();
        for _ in 0..1000 {
            assert_eq!(throttle.charge(MIB, start), Duration::ZERO);
        }
        // Nobody waits either, however long it was to be.
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        throttle
            .pause(&ours, Duration::from_secs(3600))
            .expect("waits");
        throttle.lower();
        for _ in 0..10 {
            assert_eq!(throttle.charge(MIB, start), Duration::ZERO);
        }
        assert!(throttle.charge(MIB, start) > Duration::ZERO);
    }

    #[test]
    fn a_burst_is_free_and_what_follows_has_the_rate() {
        let mine = limits(1000, 0, 5);
        assert_eq!(time_for(mine, &[4096; 5000]), Duration::ZERO);
        let long = time_for(mine, &[4096; 25_000]).as_secs_f64();
        assert!((long - 20.0).abs() < 0.01, "{long}");
        // By bytes: 100 MiB/s, one second's worth at once.
        let mine = limits(0, 100 * MIB, 1);
        let long = time_for(mine, &[MIB; 1100]).as_secs_f64();
        assert!((long - 10.0).abs() < 0.01, "{long}");
    }

    #[test]
    fn the_stricter_of_the_two_holds() {
        let mine = limits(100, 100 * MIB, 1);
        let small = time_for(mine, &[4096; 1100]).as_secs_f64();
        assert!((small - 10.0).abs() < 0.01, "{small}");
        let large = time_for(mine, &[32 * MIB; 10]).as_secs_f64();
        assert!((large - 2.2).abs() < 0.01, "{large}");
    }

    #[test]
    fn nothing_waits_without_limits_and_an_idle_device_saves_no_more_than_its_burst() {
        assert_eq!(
            time_for(IoLimits::default(), &[1 << 40; 100]),
            Duration::ZERO
        );
        let start = Instant::now();
        let throttle = Throttle::new(limits(10, 0, 2), start);
        let later = start + Duration::from_secs(3600);
        for _ in 0..20 {
            assert_eq!(throttle.charge(0, later), Duration::ZERO);
        }
        assert_eq!(throttle.charge(0, later), Duration::from_millis(100));
        // A clock that seems to go back gives nothing.
        assert!(throttle.charge(0, start) > Duration::from_millis(100));
    }

    proptest! {
        #[test]
        fn in_the_long_run_no_more_than_the_rate_passes(
            operations in 1..5000_u32, mib in 1..500_u64, burst in 0..10_u32,
            requests in prop::collection::vec((0..64 * MIB, 0..200_u64), 1..300),
        ) {
            let mine = limits(operations, mib * MIB, burst);
            let start = Instant::now();
            let throttle = Throttle::new(mine, start);
            let (mut now, mut bytes) = (start, 0);
            for (length, pause_ms) in &requests {
                now += Duration::from_millis(*pause_ms) + throttle.charge(*length, now);
                bytes += length;
            }
            let seconds = (now - start).as_secs_f64() + f64::from(burst.max(1));
            let allowed = seconds * (mib * MIB) as f64;
            prop_assert!(bytes as f64 <= allowed * 1.000_001 + 1.0, "{bytes} of {allowed}");
            let allowed = seconds * f64::from(operations);
            prop_assert!(requests.len() as f64 <= allowed * 1.000_001 + 1.0);
        }
    }
}
