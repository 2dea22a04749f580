//! A token bucket: so much at once, and so much in the long run.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Allowance {
    per_second: f64,
    most: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// A bucket that is full now.
    pub(crate) fn full(per_second: f64, most: f64) -> Self {
        let state = State {
            left: most,
            at: Instant::now(),
        };
        Self {
            per_second,
            most,
            state: Mutex::new(state),
        }
    }

    /// Takes `amount`, or says when there will be so much.
    pub(crate) fn take(&self, amount: usize) -> Result<(), Duration> {
        self.take_at(amount, Instant::now())
    }

    fn take_at(&self, amount: usize, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        state.left = (state.left + passed * self.per_second).min(self.most);
        state.at = now;
        #[expect(clippy::cast_precision_loss, reason = "amounts are small")]
        let amount = (amount as f64).min(self.most);
        if amount <= state.left {
            state.left -= amount;
            return Ok(());
        }
        Err(Duration::from_secs_f64(
            (amount - state.left) / self.per_second,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let allowance = Allowance::full(10.0, 100.0);
        let begin = Instant::now();
        assert_eq!(allowance.take_at(60, begin), Ok(()));
        assert_eq!(allowance.take_at(40, begin), Ok(()));
        let wait = allowance.take_at(20, begin).expect_err("it is empty");
        assert!((1.9..=2.1).contains(&wait.as_secs_f64()), "{wait:?}");
        let later = begin + Duration::from_millis(2100);
        assert_eq!(allowance.take_at(20, later), Ok(()));
        // Never more than the burst, however long nothing was taken.
        let later = later + Duration::from_secs(3600);
        assert_eq!(allowance.take_at(100, later), Ok(()));
        assert!(allowance.take_at(1, later).is_err());
    }
}
