//! Configuration of the sandbox network, checked before anything is touched.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::address::{Plan, SLOT_LIMIT};
use crate::error::{Error, Result};
use crate::services::ServicePorts;

/// Slots kept ready by default.
const DEFAULT_POOL_SIZE: u32 = 8;
/// Slots that may exist at once by default.
const DEFAULT_MAX_SLOTS: u32 = 512;
/// Released slots kept for reuse by default.
const DEFAULT_IDLE_LIMIT: u32 = 64;

/// Connections of one guest by default: plenty for a crawler, a fraction of the
/// host's table.
const DEFAULT_CONNECTIONS_MAX: u32 = 8192;

/// Bounds of a guest's bandwidth in bits per second: below the least a name cannot
/// be looked up in time, and more than the most no link carries.
const BANDWIDTH_LEAST: u64 = 64_000;
const BANDWIDTH_LIMIT: u64 = 1_000_000_000_000;

/// Two ranges that slots take their addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangePair {
    /// One address per slot: where the host reaches the guest.
    pub slot_range: Ipv4Net,
    /// Two addresses per slot: the veth link between host and namespace.
    pub link_range: Ipv4Net,
}

/// First uid of VM processes, and how many there are, by default: a range that neither
/// distributions nor systemd nor `subuid` files give to anybody.
pub const DEFAULT_UIDS: (u32, u32) = (0x7000_0001, 0x0ffd_ffff);

/// Uids that are given out one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UidRange {
    /// The first.
    pub first: u32,
    /// How many; as many slots may have a holder until the host's next boot.
    pub count: u32,
    /// The file in which it is noted which were used.
    pub record: PathBuf,
}

impl UidRange {
    /// The one after the last.
    pub(crate) fn end(&self) -> u32 {
        self.first.saturating_add(self.count)
    }
}

/// Who may open a slot's TAP without `CAP_NET_ADMIN`, and whom its holder's VM runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TapOwner {
    /// One uid for all slots.
    Fixed(u32),
    /// For each holder a uid that nobody had since the host booted.
    Fresh(UidRange),
}

/// Configuration of a [`crate::SlotPool`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Where the chosen ranges and what we changed on the host are remembered.
    pub state_dir: PathBuf,
    /// Slots kept ready ahead of demand.
    pub pool_size: u32,
    /// Slots that may exist at once; the next acquire past it is refused.
    pub max_slots: u32,
    /// Clean released slots kept for reuse; more are removed.
    pub idle_limit: u32,
    /// Preferred range of host addresses.
    pub slot_range: Ipv4Net,
    /// Preferred range of veth links.
    pub link_range: Ipv4Net,
    /// Tried in order when the preferred ranges overlap something on the host.
    pub fallback_ranges: Vec<RangePair>,
    /// Who may open the TAPs.
    pub tap_owner: TapOwner,
    /// Name servers that guests use; found from the host's files when absent.
    pub nameservers: Option<Vec<IpAddr>>,
    /// Where the node serves guests; without them guests have no such services and
    /// nothing is diverted.
    pub services: Option<ServicePorts>,
    /// Tracked connections that one guest may have at a time, at most: all together may
    /// fill half of the host's table, which is made larger for them.
    pub connections_max: Option<u32>,
    /// Bits per second that one guest may send, and as many that it may receive, of
    /// any traffic; between 64,000 and 10^12.
    pub bandwidth_max: Option<u64>,
    /// Networks that no guest may reach, beside those that none ever may.
    pub deny: Vec<Ipv4Net>,
    /// Whether guests may deliver mail to port 25 of others.
    pub smtp: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/hearth"),
            pool_size: DEFAULT_POOL_SIZE,
            max_slots: DEFAULT_MAX_SLOTS,
            idle_limit: DEFAULT_IDLE_LIMIT,
            slot_range: range([10, 11]),
            link_range: range([10, 12]),
            fallback_ranges: vec![
                RangePair {
                    slot_range: range([10, 211]),
                    link_range: range([10, 212]),
                },
                RangePair {
                    slot_range: range([172, 30]),
                    link_range: range([172, 31]),
                },
                RangePair {
                    slot_range: range([100, 126]),
                    link_range: range([100, 127]),
                },
                RangePair {
                    slot_range: range([198, 18]),
                    link_range: range([198, 19]),
                },
            ],
            tap_owner: TapOwner::Fixed(0),
            nameservers: None,
            services: None,
            connections_max: Some(DEFAULT_CONNECTIONS_MAX),
            bandwidth_max: None,
            deny: Vec::new(),
            smtp: false,
        }
    }
}

fn range([a, b]: [u8; 2]) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), 16)
}

impl NetworkConfig {
    /// The candidate plans in the order in which they are tried.
    pub(crate) fn plans(&self) -> Result<Vec<Plan>> {
        let preferred = RangePair {
            slot_range: self.slot_range,
            link_range: self.link_range,
        };
        std::iter::once(&preferred)
            .chain(&self.fallback_ranges)
            .map(|pair| Plan::new(pair.slot_range, pair.link_range, self.max_slots))
            .collect()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |reason: String| Err(Error::Config { reason });
        if self.max_slots == 0 || self.max_slots > SLOT_LIMIT {
            return refuse(format!("max_slots must be between 1 and {SLOT_LIMIT}"));
        }
        if self.pool_size > self.max_slots {
            return refuse(format!(
                "pool_size {} is larger than max_slots {}",
                self.pool_size, self.max_slots
            ));
        }
        if let TapOwner::Fresh(UidRange { first, count, .. }) = self.tap_owner
            && (first.checked_add(count).is_none() || count < self.max_slots || first == 0)
        {
            return refuse(format!(
                "{count} uids from {first} on are not enough for {} slots, or no uids",
                self.max_slots
            ));
        }
        if let Some(bandwidth) = self.bandwidth_max
            && !(BANDWIDTH_LEAST..=BANDWIDTH_LIMIT).contains(&bandwidth)
        {
            return refuse(format!(
                "bandwidth_max must be between {BANDWIDTH_LEAST} and {BANDWIDTH_LIMIT} bits per second"
            ));
        }
        self.plans().map(drop)
    }

    /// The IPv4 name servers that guests may reach.
    pub(crate) fn guest_nameservers(&self) -> Vec<Ipv4Addr> {
        let servers = match &self.nameservers {
            Some(servers) => servers.clone(),
            None => crate::resolver::reachable_nameservers(),
        };
        servers
            .into_iter()
            .filter_map(|server| match server {
                IpAddr::V4(server) => Some(server),
                IpAddr::V6(_) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        NetworkConfig::default().validate().unwrap();
    }

    fn fresh(first: u32, count: u32) -> TapOwner {
        TapOwner::Fresh(UidRange {
            first,
            count,
            record: PathBuf::from("/run/x/uids.json"),
        })
    }

    #[test]
    fn limits_that_cannot_hold_are_refused() {
        let cases = [
            NetworkConfig {
                max_slots: 0,
                pool_size: 0,
                ..Default::default()
            },
            NetworkConfig {
                max_slots: SLOT_LIMIT + 1,
                ..Default::default()
            },
            NetworkConfig {
                max_slots: 4,
                pool_size: 5,
                ..Default::default()
            },
            NetworkConfig {
                tap_owner: fresh(u32::MAX, 1000),
                ..Default::default()
            },
            NetworkConfig {
                tap_owner: fresh(1000, 511),
                ..Default::default()
            },
            NetworkConfig {
                tap_owner: fresh(0, 1000),
                ..Default::default()
            },
            NetworkConfig {
                bandwidth_max: Some(BANDWIDTH_LEAST - 1),
                ..Default::default()
            },
            NetworkConfig {
                slot_range: "10.11.0.0/24".parse().unwrap(),
                ..Default::default()
            },
        ];
        for case in cases {
            assert!(case.validate().is_err(), "{case:?}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"pool_sise": 3}"#;
        assert!(serde_json::from_str::<NetworkConfig>(text).is_err());
    }
}
