//! Quotas: what a team uses and what it may, decided before work begins.
//!
//! [`decide`] is all of the policy; it knows neither store nor node. Who asks has to
//! look at no more than the limit in question needs: each [`Demand`] carries the usage
//! that it is decided by.

use crate::error::{Error, Kind};
use hearth_store::TeamLimits;

/// One thing more than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// A sandbox that runs, when with it as many would.
    Run { with_it: usize },
    /// Processors of the sandboxes that run, when with it as many would.
    Vcpus { with_it: u64 },
    /// Memory of the sandboxes that run, when with it so much would be.
    Memory { with_it_mib: u64 },
    /// Sandboxes that are paused, or will be when their time is over, beside those that are.
    Pause { paused: usize, more: usize },
    /// A snapshot under a new name.
    Snapshot { snapshots: usize },
    /// A template under a new name.
    Template { templates: usize },
    /// A volume, when there are as many as there may be.
    Volume,
    /// Bytes on disk, however many more.
    Store { stored_bytes: u64 },
}

/// A limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) demand: Demand,
    pub(crate) most: u32,
}

/// Whether a team of these limits may have one more.
pub(crate) fn decide(demand: Demand, limits: &TeamLimits) -> Result<(), Exceeded> {
    let (fits, most) = match demand {
        Demand::Run { with_it } => {
            let most = limits.max_concurrent_sandboxes;
            (with_it <= count(most), most)
        }
        Demand::Vcpus { with_it } => fits(with_it, limits.max_total_vcpus),
        Demand::Memory { with_it_mib } => fits(with_it_mib, limits.max_total_memory_mib),
        Demand::Pause { paused, more } => {
            let most = limits.max_paused_sandboxes;
            (paused.saturating_add(more) <= count(most), most)
        }
        Demand::Snapshot { snapshots } => {
            let most = limits.max_snapshots;
            (snapshots < count(most), most)
        }
        Demand::Template { templates } => {
            let most = limits.max_templates;
            (templates < count(most), most)
        }
        // The store counts them.
        Demand::Volume => (false, limits.max_volumes),
        Demand::Store { stored_bytes } => {
            let most = limits.max_stored_mib;
            (stored_bytes < u64::from(most) << 20, most)
        }
    };
    match fits {
        true => Ok(()),
        false => Err(Exceeded { demand, most }),
    }
}

/// Whether a sum is within a limit that may be none.
fn fits(sum: u64, most: u32) -> (bool, u32) {
    let unlimited = most == TeamLimits::NO_LIMIT;
    (unlimited || sum <= u64::from(most), most)
}

fn count(most: u32) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX)
}

impl From<Exceeded> for Error {
    fn from(Exceeded { demand, most }: Exceeded) -> Self {
        let message = match demand {
            // Clients look for how this one begins.
            Demand::Run { .. } => format!(
                "you have reached the maximum number of concurrent E2B sandboxes ({most}). If you \
                 need more, end some of them or have the team's limit raised."
            ),
            Demand::Vcpus { with_it } => reached(
                "processors of running sandboxes",
                &format!("{with_it} with this one, of {most}"),
                "end or pause some of them",
                "--total-vcpus",
            ),
            Demand::Memory { with_it_mib } => reached(
                "memory of running sandboxes",
                &format!("{with_it_mib} MiB with this one, of {most}"),
                "end or pause some of them",
                "--total-memory-mib",
            ),
            Demand::Pause { paused, .. } => reached(
                "paused sandboxes",
                &format!("{paused} of {most}"),
                "end some of them",
                "--paused-sandboxes",
            ),
            Demand::Snapshot { snapshots } => reached(
                "snapshots",
                &format!("{snapshots} of {most}"),
                "delete some of them",
                "--snapshots",
            ),
            Demand::Template { templates } => reached(
                "templates",
                &format!("{templates} of {most}"),
                "delete some of them",
                "--templates",
            ),
            Demand::Volume => reached(
                "volumes",
                &format!("{most} of {most}"),
                "delete some of them",
                "--volumes",
            ),
            Demand::Store { stored_bytes } => reached(
                "stored MiB",
                &format!("{} of {most}", stored_bytes >> 20),
                "delete templates or snapshots",
                "--stored-mib",
            ),
        };
        // Sending the request again cannot help before something else ends.
        Self::new(Kind::LimitReached, message).never_retry()
    }
}

fn reached(what: &str, used: &str, instead: &str, option: &str) -> String {
    format!(
        "the team's limit of {what} is reached ({used}): {instead}, or have an operator raise it \
         (hearth team limits TEAM {option} N)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(most: u32) -> TeamLimits {
        TeamLimits {
            max_concurrent_sandboxes: most,
            max_total_vcpus: most,
            max_total_memory_mib: most,
            max_paused_sandboxes: most,
            max_snapshots: most,
            max_templates: most,
            max_stored_mib: most,
            ..TeamLimits::default()
        }
    }

    proptest! {
        /// One by one until refused, a team comes to have exactly as many as it may.
        #[test]
        fn a_team_gets_as_much_as_its_limit(most in 0u32..300) {
            let limits = limits(most);
            let fill = |demand: fn(usize) -> Demand| {
                let mut held = 0;
                while decide(demand(held), &limits).is_ok() {
                    held += 1;
                }
                held
            };
            let all = usize::try_from(most).expect("small");
            prop_assert_eq!(fill(|held| Demand::Run { with_it: held + 1 }), all);
            prop_assert_eq!(fill(|held| Demand::Vcpus { with_it: held as u64 + 1 }), all);
            prop_assert_eq!(fill(|held| Demand::Memory { with_it_mib: held as u64 + 1 }), all);
            prop_assert_eq!(fill(|paused| Demand::Pause { paused, more: 1 }), all);
            prop_assert_eq!(fill(|snapshots| Demand::Snapshot { snapshots }), all);
            prop_assert_eq!(fill(|templates| Demand::Template { templates }), all);
            let stored = fill(|held| Demand::Store { stored_bytes: (held as u64) << 20 });
            prop_assert_eq!(stored, all);
        }
    }

    #[test]
    fn whoever_is_refused_reads_which_limit_and_what_helps() {
        let refused = decide(
            Demand::Store {
                stored_bytes: 5 << 20,
            },
            &limits(5),
        );
        let error = Error::from(refused.expect_err("is full"));
        assert_eq!(error.kind, Kind::LimitReached);
        assert_eq!(
            error.message,
            "the team's limit of stored MiB is reached (5 of 5): delete templates or snapshots, or \
             have an operator raise it (hearth team limits TEAM --stored-mib N)"
        );
    }

    #[test]
    fn the_largest_number_is_no_limit() {
        let limits = limits(TeamLimits::NO_LIMIT);
        for demand in [
            Demand::Vcpus { with_it: u64::MAX },
            Demand::Memory {
                with_it_mib: u64::MAX,
            },
        ] {
            decide(demand, &limits).expect("is not limited");
        }
    }

    #[test]
    fn no_number_overflows() {
        let limits = limits(u32::MAX);
        assert!(
            decide(
                Demand::Store {
                    stored_bytes: u64::MAX
                },
                &limits
            )
            .is_err()
        );
        assert!(
            decide(
                Demand::Run {
                    with_it: usize::MAX
                },
                &limits
            )
            .is_err()
        );
    }
}
