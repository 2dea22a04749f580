//! The address plan: which addresses and names belong to which slot. Pure.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::{Error, Result};
use crate::services::{EDGE_ADDRESS, SERVICE_ADDRESS};

/// The guest's address, the same in every sandbox.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
/// The guest's gateway: the TAP's address in the slot's namespace.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
/// Prefix length of the network between guest and gateway.
pub const GUEST_PREFIX: u8 = 30;
/// The guest's MAC, the same in every sandbox.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xfc, 0x00, 0x00, 0x00, 0x05];
/// The TAP's MAC. It is fixed because a restored guest still has its gateway's
/// MAC in its neighbour table and would send to the one it knew.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0xfc, 0x00, 0x00, 0x00, 0x06];
/// The TAP's name in every slot's namespace.
pub const TAP_NAME: &str = "tap0";
/// The slot side of the veth pair.
pub const UPLINK_NAME: &str = "eth0";
/// What every host-side veth name starts with.
pub const VETH_PREFIX: &str = "hveth";
/// What every slot namespace's name starts with.
pub const NETNS_PREFIX: &str = "hearth-";

/// Most slots that any configuration may ask for: a /16 of /31 links.
pub const SLOT_LIMIT: u32 = 32_768;

/// Which addresses slots get. Both ranges are disjoint and large enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    slot_range: Ipv4Net,
    link_range: Ipv4Net,
}

impl Plan {
    /// Checks that both ranges hold `max_slots` slots and do not overlap.
    pub fn new(slot_range: Ipv4Net, link_range: Ipv4Net, max_slots: u32) -> Result<Self> {
        let (slot_range, link_range) = (slot_range.trunc(), link_range.trunc());
        let size = |range: Ipv4Net| 1_u64 << (32 - range.prefix_len());
        // Host addresses skip the range's first address and keep clear of its last.
        if size(slot_range) < u64::from(max_slots) + 2 {
            return Err(Error::RangeTooSmall {
                range: slot_range,
                max_slots,
            });
        }
        if size(link_range) < u64::from(max_slots) * 2 {
            return Err(Error::RangeTooSmall {
                range: link_range,
                max_slots,
            });
        }
        if overlap(slot_range, link_range) {
            return Err(Error::Config {
                reason: format!("slot range {slot_range} and link range {link_range} overlap"),
            });
        }
        Ok(Self {
            slot_range,
            link_range,
        })
    }

    /// The range that host addresses come from.
    #[must_use]
    pub fn slot_range(&self) -> Ipv4Net {
        self.slot_range
    }

    /// The range that veth links come from.
    #[must_use]
    pub fn link_range(&self) -> Ipv4Net {
        self.link_range
    }

    /// The address at which the host reaches the guest of slot `index`.
    #[must_use]
    pub fn host_address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.slot_range.network()) + 1 + index)
    }

    /// The host's end of the slot's /31 link.
    #[must_use]
    pub fn link_host(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.link_range.network()) + 2 * index)
    }

    /// The namespace's end of the slot's /31 link.
    #[must_use]
    pub fn link_slot(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.link_range.network()) + 2 * index + 1)
    }
}

/// Whether no guest may go to `address`, whatever its policy. The slots' own ranges
/// come on top of this.
#[must_use]
pub fn is_never_reachable(address: Ipv4Addr) -> bool {
    crate::ruleset::DENIED_RANGES
        .iter()
        .any(|(network, prefix)| {
            Ipv4Net::new(*network, *prefix).is_ok_and(|n| n.contains(&address))
        })
        || [SERVICE_ADDRESS, EDGE_ADDRESS].contains(&address)
}

/// Whether two ranges share an address.
#[must_use]
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Name of the host side of slot `index`'s veth pair.
#[must_use]
pub fn veth_name(index: u32) -> String {
    format!("{VETH_PREFIX}{index}")
}

/// Name of slot `index`'s namespace, as `ip netns` shows it.
#[must_use]
pub fn netns_name(index: u32) -> String {
    format!("{NETNS_PREFIX}{index}")
}

/// The index in a name that we gave out, if it is exactly such a name.
#[must_use]
pub fn index_of(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    let index: u32 = digits.parse().ok()?;
    (index < SLOT_LIMIT && index.to_string() == digits).then_some(index)
}

/// MAC of the host side of slot `index`'s veth pair.
pub(crate) fn veth_host_mac(index: u32) -> [u8; 6] {
    let [_, _, high, low] = index.to_be_bytes();
    [0x02, 0x48, 0x45, 0x00, high, low]
}

/// MAC of the namespace side of slot `index`'s veth pair.
pub(crate) fn veth_slot_mac(index: u32) -> [u8; 6] {
    let [_, _, high, low] = index.to_be_bytes();
    [0x02, 0x48, 0x45, 0x01, high, low]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn first_slots_have_the_documented_addresses() {
        let plan = Plan::new(net("10.11.0.0/16"), net("10.12.0.0/16"), 512).unwrap();
        assert_eq!(plan.host_address(0), Ipv4Addr::new(10, 11, 0, 1));
        assert_eq!(plan.host_address(255), Ipv4Addr::new(10, 11, 1, 0));
        assert_eq!(plan.link_host(0), Ipv4Addr::new(10, 12, 0, 0));
        assert_eq!(plan.link_slot(1), Ipv4Addr::new(10, 12, 0, 3));
    }

    #[test]
    fn a_range_too_small_or_overlapping_is_refused() {
        let small = Plan::new(net("10.11.0.0/24"), net("10.12.0.0/16"), 255);
        assert!(matches!(small, Err(Error::RangeTooSmall { .. })));
        let links = Plan::new(net("10.11.0.0/16"), net("10.12.0.0/24"), 129);
        assert!(matches!(links, Err(Error::RangeTooSmall { .. })));
        let same = Plan::new(net("10.11.0.0/16"), net("10.0.0.0/8"), 8);
        assert!(matches!(same, Err(Error::Config { .. })));
        assert!(Plan::new(net("10.11.0.0/24"), net("10.12.0.0/24"), 128).is_ok());
    }

    #[test]
    fn only_our_own_names_are_recognised() {
        assert_eq!(index_of("hveth7", VETH_PREFIX), Some(7));
        for foreign in [
            "hveth",
            "hveth07",
            "hveth+7",
            "hveth7a",
            "hveth99999",
            "veth7",
        ] {
            assert_eq!(index_of(foreign, VETH_PREFIX), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn every_slot_has_addresses_of_its_own_inside_the_ranges(
            slot_bits in 20_u8..=24, link_bits in 19_u8..=23, max in 1_u32..=200,
        ) {
            let slot = Ipv4Net::new(Ipv4Addr::new(10, 11, 0, 0), slot_bits).unwrap();
            let link = Ipv4Net::new(Ipv4Addr::new(10, 12, 0, 0), link_bits).unwrap();
            let plan = Plan::new(slot, link, max).unwrap();
            let mut seen = HashSet::new();
            for index in 0..max {
                let address = plan.host_address(index);
                prop_assert!(slot.contains(&address) && address != slot.network());
                prop_assert!(address != slot.broadcast());
                for end in [plan.link_host(index), plan.link_slot(index)] {
                    prop_assert!(link.contains(&end));
                    prop_assert!(seen.insert(end));
                }
                prop_assert!(seen.insert(address));
            }
        }
    }
}
