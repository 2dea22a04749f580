//! What a slot's guest may reach: the part of a sandbox's network settings that
//! the kernel carries out. Pure.
//!
//! The order of decision for a packet that a guest sends:
//!
//! ```text
//!  private, link-local, host … ──▶ never
//!  in `allow`                  ──▶ yes
//!  TCP that `divert` names     ──▶ to the user-space proxy, which decides by name
//!  in `deny`                   ──▶ no
//!  else                        ──▶ yes
//! ```

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Every address there is.
pub const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// Which TCP connections are handed to the proxy instead of being forwarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Divert {
    /// None: everything stays in the kernel.
    #[default]
    Nothing,
    /// All that `allow` does not name.
    Undecided,
    /// Those to these ports, whether `allow` names their address or not.
    Ports(Vec<u16>),
    /// All of them.
    Everything,
}

/// A slot's policy. The default one is a fresh slot's: the whole internet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Wins over `deny`.
    pub allow: Vec<Ipv4Net>,
    /// Destinations that are refused, beside those that none may reach.
    pub deny: Vec<Ipv4Net>,
    /// Which TCP connections go through the node's proxy.
    pub divert: Divert,
    /// DNS to any server is answered by the node's forwarder.
    pub divert_dns: bool,
}

impl Policy {
    /// No connection to the outside.
    #[must_use]
    pub fn offline() -> Self {
        Self {
            deny: vec![EVERYWHERE],
            ..Self::default()
        }
    }

    /// Whether a fresh slot is as this policy says.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.deny.is_empty() && self.divert == Divert::Nothing && !self.divert_dns
    }

    pub(crate) fn diverts(&self) -> bool {
        self.divert != Divert::Nothing || self.divert_dns
    }

    /// The same policy with lists that name no address twice, as interval sets
    /// need it.
    #[must_use]
    pub(crate) fn normal(&self) -> Self {
        let mut ports = self.divert.clone();
        if let Divert::Ports(ports) = &mut ports {
            ports.sort_unstable();
            ports.dedup();
        }
        Self {
            allow: Ipv4Net::aggregate(&self.allow.iter().map(Ipv4Net::trunc).collect()),
            deny: Ipv4Net::aggregate(&self.deny.iter().map(Ipv4Net::trunc).collect()),
            divert: ports,
            divert_dns: self.divert_dns,
        }
    }
}

/// A slot that lives on from an earlier run, and its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The slot's index, from 0 on.
    pub index: u32,
    /// What is in force in it.
    pub policy: Policy,
}

impl From<u32> for Adoption {
    /// A slot with the whole internet.
    fn from(index: u32) -> Self {
        Self {
            index,
            policy: Policy::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_networks_are_merged() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let policy = Policy {
            allow: nets(&["192.0.2.0/25", "192.0.2.128/25", "192.0.2.7/32"]),
            deny: nets(&["0.0.0.0/0", "203.0.113.9/8"]),
            divert: Divert::Ports(vec![443, 80, 443]),
            ..Policy::default()
        };
        let normal = policy.normal();
        assert_eq!(normal.allow, nets(&["192.0.2.0/24"]));
        assert_eq!(normal.deny, [EVERYWHERE]);
        assert_eq!(normal.divert, Divert::Ports(vec![80, 443]));
    }

    #[test]
    fn only_what_restricts_nothing_is_plain() {
        assert!(Policy::default().is_plain());
        let allowed = Policy {
            allow: vec![EVERYWHERE],
            ..Policy::default()
        };
        assert!(allowed.is_plain());
        assert!(!Policy::offline().is_plain());
    }
}
