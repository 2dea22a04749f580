//! `[rate_limits]`: how many requests the API takes of whom.

use super::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A token bucket's shape.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateSettings {
    /// Requests per second in the long run; 0 for any number.
    pub per_second: u32,
    /// Requests at once, after a time without any.
    pub burst: u32,
}

/// How many requests the API takes. Health checks are not limited.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitSettings {
    /// Of one API key: requests that change nothing.
    pub read: RateSettings,
    /// Of one API key: requests that change something that is there.
    pub write: RateSettings,
    /// Of one API key: requests that make sandboxes, snapshots or builds.
    pub create: RateSettings,
    /// All keys of a team together get this many times as much; 0 for any number.
    pub team_multiple: u32,
    /// Of one client address (IPv6: one /64) or sandbox: requests without a key, or with
    /// one that has not proved good lately.
    pub unauthenticated: RateSettings,
    /// Keys, teams and addresses whose use is remembered, of each kind of request. The
    /// one that was heard of the longest ago is forgotten first.
    pub max_tracked: usize,
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        let limits = hearth_api::RateLimits::default();
        Self {
            read: limits.read.into(),
            write: limits.write.into(),
            create: limits.create.into(),
            team_multiple: limits.team_multiple,
            unauthenticated: limits.unauthenticated.into(),
            max_tracked: limits.max_tracked,
        }
    }
}

impl From<hearth_api::Rate> for RateSettings {
    fn from(rate: hearth_api::Rate) -> Self {
        let hearth_api::Rate { per_second, burst } = rate;
        Self { per_second, burst }
    }
}

impl RateSettings {
    fn config(self) -> hearth_api::Rate {
        let Self { per_second, burst } = self;
        hearth_api::Rate { per_second, burst }
    }
}

impl RateLimitSettings {
    /// The API's own form.
    pub fn config(&self) -> hearth_api::RateLimits {
        hearth_api::RateLimits {
            read: self.read.config(),
            write: self.write.config(),
            create: self.create.config(),
            team_multiple: self.team_multiple,
            unauthenticated: self.unauthenticated.config(),
            max_tracked: self.max_tracked,
        }
    }

    /// Refuses what would let nobody in.
    pub(super) fn check(&self) -> Result<(), Problem> {
        for (key, rate) in [
            ("rate_limits.read", self.read),
            ("rate_limits.write", self.write),
            ("rate_limits.create", self.create),
            ("rate_limits.unauthenticated", self.unauthenticated),
        ] {
            if rate.per_second > 0 && rate.burst == 0 {
                return Err(Problem::new(key, "burst must be at least 1"));
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
