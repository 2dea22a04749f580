//! `[rate_limits]`: how many requests the API takes of whom.

use super::Problem;
use hearth_api::{Rate, RateLimits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many requests the API takes, as token buckets: so many per second in the long run,
/// and so many at once after a time without any. Health checks are not limited.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitSettings {
    /// Requests of one API key that change nothing, per second; 0 for any number.
    pub read_per_second: u32,
    /// Such requests at once.
    pub read_burst: u32,
    /// Requests of one API key that change something that is there, per second; 0 for any
    /// number.
    pub write_per_second: u32,
    /// Such requests at once.
    pub write_burst: u32,
    /// Requests of one API key that make or start sandboxes, or make snapshots, volumes or builds,
    /// per second; 0 for any number.
    pub create_per_second: u32,
    /// Such requests at once.
    pub create_burst: u32,
    /// All keys of a team together get this many times as much; 0 for any number.
    pub team_multiple: u32,
    /// Requests of one client address (IPv6: one /64) or sandbox without a key, or with
    /// one that has not proved good lately, per second; 0 for any number.
    pub unauthenticated_per_second: u32,
    /// Such requests at once.
    pub unauthenticated_burst: u32,
    /// Keys, teams and addresses whose use is remembered, of each kind of request. The
    /// one that was heard of the longest ago is forgotten first.
    pub max_tracked: usize,
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        let limits = RateLimits::default();
        Self {
            read_per_second: limits.read.per_second,
            read_burst: limits.read.burst,
            write_per_second: limits.write.per_second,
            write_burst: limits.write.burst,
            create_per_second: limits.create.per_second,
            create_burst: limits.create.burst,
            team_multiple: limits.team_multiple,
            unauthenticated_per_second: limits.unauthenticated.per_second,
            unauthenticated_burst: limits.unauthenticated.burst,
            max_tracked: limits.max_tracked,
        }
    }
}

impl RateLimitSettings {
    /// The API's own form.
    pub fn config(&self) -> RateLimits {
        let rate = |per_second, burst| Rate { per_second, burst };
        RateLimits {
            read: rate(self.read_per_second, self.read_burst),
            write: rate(self.write_per_second, self.write_burst),
            create: rate(self.create_per_second, self.create_burst),
            team_multiple: self.team_multiple,
            unauthenticated: rate(self.unauthenticated_per_second, self.unauthenticated_burst),
            max_tracked: self.max_tracked,
        }
    }

    /// Refuses what would let nobody in.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let limits = self.config();
        for (key, rate) in [
            ("rate_limits.read_burst", limits.read),
            ("rate_limits.write_burst", limits.write),
            ("rate_limits.create_burst", limits.create),
            ("rate_limits.unauthenticated_burst", limits.unauthenticated),
        ] {
            if rate.per_second > 0 && rate.burst == 0 {
                return Err(Problem::new(key, "must be at least 1"));
            }
        }
        if self.max_tracked == 0 {
            return Err(Problem::new(
                "rate_limits.max_tracked",
                "must be at least 1",
            ));
        }
        Ok(())
    }
}
