//! Token buckets by key, at most so many: the one that was used the longest ago makes
//! room, and begins full when it is heard of again.

use super::config::Rate;
use super::{Allowance, Exceeded};
use governor::clock::{Clock, MonotonicClock, Reference};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use lru::LruCache;
use std::hash::Hash;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// When each bucket is full again, in governor's terms.
struct Recent<K: Hash + Eq>(Mutex<LruCache<K, Nanos>>);

impl<K: Hash + Eq + Clone> StateStore for Recent<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, next) = measure(buckets.get(key).copied())?;
        buckets.put(key.clone(), next);
        Ok(answer)
    }
}

/// The buckets of one kind.
pub(super) struct Buckets<K: Hash + Eq + Clone, C: Clock = MonotonicClock> {
    limiter: RateLimiter<K, Recent<K>, C, StateInformationMiddleware>,
    quota: Quota,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// None where there is no limit.
    pub(super) fn new(rate: Rate, most: usize) -> Option<Self> {
        Self::with_clock(rate, most, MonotonicClock)
    }
}

impl<K: Hash + Eq + Clone, C: Clock> Buckets<K, C> {
    fn with_clock(rate: Rate, most: usize, clock: C) -> Option<Self> {
        let per_second = NonZeroU32::new(rate.per_second)?;
        let burst = NonZeroU32::new(rate.burst)?;
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        // Memory is taken as it is needed, not for the most that there may be.
        let mut cache = LruCache::unbounded();
        cache.resize(most);
        Some(Self {
            limiter: RateLimiter::new(quota, Recent(Mutex::new(cache)), clock),
            quota,
        })
    }

    /// Takes one request.
    pub(super) fn take(&self, key: &K) -> Result<Allowance, Exceeded> {
        match self.limiter.check_key(key) {
            Ok(snapshot) => Ok(self.allowance(&snapshot)),
            Err(refused) => Err(Exceeded {
                allowance: Allowance {
                    limit: self.quota.burst_size().get(),
                    remaining: 0,
                    reset: self.quota.burst_size_replenished_in(),
                },
                wait: refused
                    .earliest_possible()
                    .duration_since(self.limiter.clock().now())
                    .into(),
            }),
        }
    }

    fn allowance(&self, snapshot: &StateSnapshot) -> Allowance {
        let limit = self.quota.burst_size().get();
        let remaining = snapshot.remaining_burst_capacity().min(limit);
        let each = self.quota.replenish_interval();
        Allowance {
            limit,
            remaining,
            reset: each.checked_mul(limit - remaining).unwrap_or(Duration::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    fn buckets(
        per_second: u32,
        burst: u32,
        most: usize,
    ) -> (Buckets<u8, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let rate = Rate { per_second, burst };
        let buckets = Buckets::with_clock(rate, most, clock.clone()).expect("limited");
        (buckets, clock)
    }

    #[test]
    fn a_burst_passes_then_the_rate_does() {
        let (buckets, clock) = buckets(2, 3, 10);
        let remaining: Vec<u32> = (0..3)
            .map(|_| buckets.take(&1).expect("within the burst").remaining)
            .collect();
        assert_eq!(remaining, [2, 1, 0]);
        let refused = buckets.take(&1).expect_err("over it");
        assert_eq!(refused.wait, Duration::from_millis(500));
        assert_eq!(refused.allowance.limit, 3);
        // Another is none the worse.
        assert_eq!(buckets.take(&2).expect("fresh").remaining, 2);
        // Whoever waits as told gets in, once.
        clock.advance(refused.wait);
        let allowance = buckets.take(&1).expect("refilled");
        assert_eq!(
            (allowance.remaining, allowance.reset),
            (0, Duration::from_millis(1500))
        );
        assert!(buckets.take(&1).is_err());
    }

    #[test]
    fn no_rate_is_no_limit() {
        let rate = Rate {
            per_second: 0,
            burst: 9,
        };
        assert!(Buckets::<u8>::new(rate, 10).is_none());
    }

    #[test]
    fn memory_is_bounded_and_who_floods_is_not_forgotten() {
        let (buckets, _clock) = buckets(1, 1, 4);
        buckets.take(&0).expect("fresh");
        for other in 1..=200 {
            assert!(buckets.take(&0).is_err(), "after {other}");
            buckets.take(&other).expect("fresh");
        }
        let kept = buckets.limiter.into_state_store().0;
        assert_eq!(kept.into_inner().expect("unpoisoned").len(), 4);
    }

    proptest! {
        /// Over any time no key gets more than the burst and what the rate gave since.
        #[test]
        fn no_pattern_of_requests_beats_the_rate(
            steps in proptest::collection::vec((0u8..3, 0u64..400), 1..200),
            per_second in 1u32..20,
            burst in 1u32..10,
        ) {
            let (buckets, clock) = buckets(per_second, burst, 10);
            let (mut passed, mut elapsed) = ([0u64; 3], 0);
            for (key, pause_ms) in steps {
                clock.advance(Duration::from_millis(pause_ms));
                elapsed += pause_ms;
                if buckets.take(&key).is_ok() {
                    passed[usize::from(key)] += 1;
                }
                let most = u64::from(burst) + elapsed * u64::from(per_second) / 1000 + 1;
                prop_assert!(passed[usize::from(key)] <= most);
            }
        }
    }
}
