//! The host's table of tracked connections, and each guest's share of it.
//!
//! Every connection of a guest takes an entry of the table that the host's own
//! connections need, too. Guests may fill half of it, all together: then each has the
//! half divided by the slots. So that this is enough for honest work the table is made
//! larger, within a share of the host's memory; entries cost nothing until they are used.
//! It stays as large when Hearth stops.

use std::fs;

use crate::config::NetworkConfig;
use crate::{conntrack, netns, sysctl};

/// The size of the table, in entries.
const TABLE: &str = "netfilter/nf_conntrack_max";
/// Its buckets. Each connection stands in two of them, and a packet looks through one.
const BUCKETS: &str = "netfilter/nf_conntrack_buckets";
const ENTRIES_PER_BUCKET: u64 = 4;
/// What an entry takes of memory, with its extensions, and somewhat more.
const ENTRY_BYTES: u64 = 512;
/// The share of the host's memory that a full table may take: one part in so many.
const MEMORY_SHARE: u64 = 32;
/// Below this many a browser does not work.
pub(crate) const LEAST: u32 = 64;

/// What the table is, what it could be, and what that leaves for each guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Entries that the table holds.
    pub(crate) table: u64,
    /// Entries with which every guest could have all that it is configured to have, as far
    /// as there is memory; at least as many as there are.
    pub(crate) wanted: u64,
}

impl Capacity {
    /// Looks at the host; `None` where it tracks no connections.
    pub(crate) fn read(config: &NetworkConfig) -> Option<Self> {
        let table = sysctl::read(TABLE).ok()?.parse().ok()?;
        Some(Self::of(table, memory_bytes(), config))
    }

    fn of(table: u64, memory_bytes: u64, config: &NetworkConfig) -> Self {
        let each = u64::from(config.connections_max.unwrap_or(0));
        let all = each * u64::from(config.max_slots) * 2;
        let room = memory_bytes / MEMORY_SHARE / ENTRY_BYTES;
        Self {
            table,
            wanted: all.min(room).max(table),
        }
    }

    /// Connections of one guest of a host whose guests fill half of the table.
    pub(crate) fn share(self, config: &NetworkConfig) -> Option<u32> {
        let most = config.connections_max?;
        let share = self.table / 2 / u64::from(config.max_slots.max(1));
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        Some(most.min(share.max(LEAST.min(most))))
    }
}

/// Makes the table as large as it should be, if this is allowed here, and says what each
/// guest may have of it; `None` for any number, as configured.
pub(crate) fn prepare(config: &NetworkConfig) -> Option<u32> {
    // The table is there once something tracks connections.
    if let Err(error) = netns::run_in_throwaway(conntrack::flush) {
        tracing::warn!(
            error = crate::error::chain(&error),
            "look for the table of tracked connections failed"
        );
    }
    let Some(mut capacity) = Capacity::read(config) else {
        tracing::warn!(
            "the host has no table of tracked connections: guests have as many as configured"
        );
        return config.connections_max;
    };
    if capacity.wanted > capacity.table {
        match sysctl::write(TABLE, &capacity.wanted.to_string()) {
            Ok(()) => {
                tracing::info!(
                    from = capacity.table,
                    to = capacity.wanted,
                    "made the table of tracked connections larger"
                );
                capacity.table = capacity.wanted;
                widen(capacity.table);
            }
            // A namespace that does not own the setting, or a container.
            Err(error) => tracing::warn!(
                error = crate::error::chain(&error),
                "make the table of tracked connections larger failed"
            ),
        }
    }
    let share = capacity.share(config);
    if share < config.connections_max {
        tracing::info!(
            configured = config.connections_max,
            each = share,
            table = capacity.table,
            "guests have fewer connections than configured: all of them may fill half of the table"
        );
    }
    share
}

/// Gives a table of this many entries as many buckets as keep its chains short.
fn widen(table: u64) {
    let wanted = table / ENTRIES_PER_BUCKET;
    let buckets = sysctl::read(BUCKETS)
        .ok()
        .and_then(|text| text.parse().ok());
    if buckets.is_some_and(|buckets: u64| buckets < wanted)
        && let Err(error) = sysctl::write(BUCKETS, &wanted.to_string())
    {
        tracing::warn!(
            error = crate::error::chain(&error),
            wanted,
            "give the table of tracked connections more buckets failed"
        );
    }
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0)
        << 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(max_slots: u32, connections_max: Option<u32>) -> NetworkConfig {
        NetworkConfig {
            max_slots,
            connections_max,
            ..NetworkConfig::default()
        }
    }

    #[test]
    fn a_usual_host_gets_a_larger_table_and_guests_their_share() {
        let config = config(512, Some(8192));
        let found = Capacity::of(262_144, 16 << 30, &config);
        assert_eq!(found.share(&config), Some(256), "as it was");
        assert_eq!(found.wanted, 1 << 20, "a 32nd of the memory");
        let raised = Capacity {
            table: found.wanted,
            ..found
        };
        assert_eq!(raised.share(&config), Some(1024));
        let plenty = Capacity::of(262_144, 1 << 40, &config);
        assert_eq!(plenty.wanted, 8192 * 512 * 2);
    }

    #[test]
    fn what_is_configured_without_a_limit_stays_so() {
        let config = config(512, None);
        let found = Capacity::of(262_144, 16 << 30, &config);
        assert_eq!((found.wanted, found.share(&config)), (262_144, None));
    }

    proptest! {
        #[test]
        fn guests_never_fill_more_than_half(
            table in 0..10_000_000_u64, memory in 0..1_u64 << 42,
            slots in 1..16_384_u32, each in 1..100_000_u32,
        ) {
            let config = config(slots, Some(each));
            let found = Capacity::of(table, memory, &config);
            prop_assert!(found.wanted >= table);
            let share = found.share(&config).unwrap();
            prop_assert!(share >= 1 && share <= each);
            // But for the least that a guest needs.
            let all = u64::from(share) * u64::from(slots);
            prop_assert!(all <= table / 2 || share == LEAST.min(each));
        }
    }
}
