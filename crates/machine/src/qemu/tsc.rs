//! The rate of the host's time-stamp counter.
//!
//! Under TCG the guest's counter runs at the host's rate, but nothing tells the guest that
//! rate: the machine has no HPET and no PM timer, and a kernel on a machine with reduced
//! ACPI hardware never programs the PIT as its timer. Left to itself it measures the
//! counter against the PIT's registers, which fails whenever emulation is disturbed (a busy
//! host is enough), and then waits for ever for a tick. So it is told
//! (`tsc_early_khz`), and the PIT and PIC can be left out altogether.

#![expect(unsafe_code, reason = "reading the counter is an intrinsic")]

use std::time::{Duration, Instant};

/// Length of the measurement.
const SPAN: Duration = Duration::from_millis(40);
/// Readings at either end, of which the least disturbed one counts.
const TRIES: usize = 64;

/// The counter's rate in kHz, good to about 10 in a million. Blocks for 40 ms.
pub(super) fn measure_khz() -> u64 {
    let (start, first) = read();
    std::thread::sleep(SPAN);
    let (end, second) = read();
    let ticks = u128::from(second.wrapping_sub(first));
    let nanoseconds = end.duration_since(start).as_nanos().max(1);
    u64::try_from(ticks * 1_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

/// The time and the counter, read together: of several tries the one whose two readings of
/// the counter are closest.
fn read() -> (Instant, u64) {
    let attempt = || {
        let before = counter();
        let now = Instant::now();
        let after = counter();
        (
            after.wrapping_sub(before),
            now,
            before + after.wrapping_sub(before) / 2,
        )
    };
    let mut best = attempt();
    for _ in 1..TRIES {
        let next = attempt();
        if next.0 < best.0 {
            best = next;
        }
    }
    (best.1, best.2)
}

fn counter() -> u64 {
    // SAFETY: RDTSC only writes registers; every x86-64 processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (a, b) = (measure_khz(), measure_khz());
        assert!(a > 100_000, "{a} kHz");
        // Far looser than they are, because tests share the host.
        assert!(a.abs_diff(b) < a / 1000, "{a} and {b} kHz");
    }
}
