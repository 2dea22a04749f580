//! What is limited, and how far.

/// A token bucket's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second in the long run; 0: any number.
    pub per_second: u32,
    /// Requests at once, after a time without any.
    pub burst: u32,
}

/// How many requests the API takes. Health checks are not limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimits {
    /// Of one API key: requests that change nothing.
    pub read: Rate,
    /// … that change something that is there.
    pub write: Rate,
    /// … that make sandboxes, snapshots, volumes or builds.
    pub create: Rate,
    /// All keys of a team together get this many times as much; 0: any number.
    pub team_multiple: u32,
    /// Of one client address (IPv6: one /64) or sandbox: requests without a key, or
    /// with one that has not proved good lately. Those with a good key are not counted
    /// here but for a key's first.
    pub unauthenticated: Rate,
    /// Keys, teams and addresses whose use is remembered, of each kind of request. The
    /// one that was heard of the longest ago is forgotten first.
    pub max_tracked: usize,
}

impl Default for RateLimits {
    fn default() -> Self {
        let rate = |per_second, burst| Rate { per_second, burst };
        Self {
            read: rate(200, 1000),
            write: rate(100, 500),
            create: rate(50, 300),
            team_multiple: 3,
            unauthenticated: rate(20, 300),
            max_tracked: 16_384,
        }
    }
}

impl Rate {
    const UNLIMITED: Self = Self {
        per_second: 0,
        burst: 0,
    };

    pub(super) fn times(self, factor: u32) -> Self {
        Self {
            per_second: self.per_second.saturating_mul(factor),
            burst: self.burst.saturating_mul(factor),
        }
    }
}

impl RateLimits {
    /// No limits at all.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            read: Rate::UNLIMITED,
            write: Rate::UNLIMITED,
            create: Rate::UNLIMITED,
            unauthenticated: Rate::UNLIMITED,
            ..Self::default()
        }
    }
}
