//! The nftables rulesets as data. Pure: nothing here talks to the kernel.
//!
//! Two rulesets: [`host`] on the host, shared by all slots, and [`slot`] in each
//! slot's namespace.
//!
//! The host's table finds guests by the interface wildcard `hveth*` and asks sets;
//! no rule belongs to a single slot, so a packet meets the same dozen rules with
//! one slot as with thousands. A slot's policy is a chain of its own that a verdict
//! map leads to from the guest's address, with its addresses in sets.
//!
//! The host's rules accept into the rest of the host's firewall: a verdict
//! `accept` ends only our own chain, so a foreign `forward` chain that drops still
//! drops. `doctor` finds those.

mod host;
mod syntax;

use std::net::Ipv4Addr;

use nftables::expr::MetaKey;
use nftables::schema::Nftables;
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfFamily, NfHook};

use crate::address::{GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC, TAP_NAME, UPLINK_NAME};
pub(crate) use host::{HostRules, host, policy_change, remove_host};
use syntax::*;

/// Name of our tables.
pub(crate) const TABLE: &str = "hearth";

/// Where no guest may go, whatever its policy: "this" network, private, carrier,
/// loopback, link-local (and metadata services), protocol assignments, benchmark,
/// multicast, reserved and broadcast (RFC 6890 with RFC 1918, 3927, 6598); and the one
/// public address at which a cloud (Azure) serves its machines' metadata and keys. The
/// others' are link-local (169.254.169.254), carrier (Alibaba's 100.100.100.200) or for
/// protocol assignments (Oracle's 192.0.0.192).
pub(crate) const DENIED_RANGES: [(Ipv4Addr, u8); 13] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Netfilter priorities (`linux/netfilter_ipv4.h`).
mod priority {
    pub(super) const FIRST: i32 = -500;
    pub(super) const DSTNAT: i32 = -100;
    pub(super) const FILTER: i32 = 0;
    pub(super) const SRCNAT: i32 = 100;
}

/// The ruleset inside one slot's namespace.
pub(crate) fn slot(host_address: Ipv4Addr) -> Nftables<'static> {
    let mut objects = guest_ingress().objects.into_owned();
    objects.extend(slot_routing(host_address).objects.into_owned());
    Nftables {
        objects: objects.into(),
    }
}

/// Nothing passes the TAP but IPv4 and ARP that name the guest's own addresses.
fn guest_ingress() -> Nftables<'static> {
    let mut table = TableBuilder::replacing(NfFamily::NetDev);
    table.device_hook("guest", TAP_NAME, NfHook::Ingress, priority::FIRST);
    let mac = || text(mac_text(GUEST_MAC));
    let from_mac = || equal(payload("ether", "saddr"), mac());
    let address = || text(GUEST_ADDRESS.to_string());
    table.rule(
        "guest",
        [
            from_mac(),
            equal(payload("ip", "saddr"), address()),
            accept(),
        ],
    );
    let request_or_reply = anonymous_set(&["request", "reply"]);
    table.rule(
        "guest",
        [
            from_mac(),
            equal(payload("arp", "operation"), request_or_reply),
            equal(payload("arp", "saddr ether"), mac()),
            equal(payload("arp", "saddr ip"), address()),
            accept(),
        ],
    );
    table.finish()
}

/// Between the TAP and the veth link: address translation, and no other way.
fn slot_routing(host_address: Ipv4Addr) -> Nftables<'static> {
    let mut table = TableBuilder::replacing(NfFamily::INet);
    let from = |name: &str| equal(meta(MetaKey::Iifname), text(name));
    let to = |name: &str| equal(meta(MetaKey::Oifname), text(name));
    let to_slot = || equal(payload("ip", "daddr"), text(host_address.to_string()));
    let dnat = || Statement::DNAT(Some(nat_to(GUEST_ADDRESS)));
    let snat = |address| Statement::SNAT(Some(nat_to(address)));
    table.hook(
        "incoming",
        NfChainType::NAT,
        NfHook::Prerouting,
        priority::DSTNAT,
        ACCEPT,
    );
    table.rule("incoming", [from(UPLINK_NAME), to_slot(), dnat()]);
    table.hook(
        "outgoing",
        NfChainType::NAT,
        NfHook::Postrouting,
        priority::SRCNAT,
        ACCEPT,
    );
    table.rule("outgoing", [to(UPLINK_NAME), snat(host_address)]);
    // A guest sees every caller as its gateway, which is on its own link: whatever
    // networks it sets up inside cannot get in the way of its answers.
    table.rule("outgoing", [to(TAP_NAME), snat(GATEWAY_ADDRESS)]);

    table.hook(
        "forward",
        NfChainType::Filter,
        NfHook::Forward,
        priority::FILTER,
        DROP,
    );
    table.rule("forward", [from(TAP_NAME), to(UPLINK_NAME), accept()]);
    table.rule("forward", [from(UPLINK_NAME), to(TAP_NAME), accept()]);
    // Nothing listens here; a ping of the gateway is worth an answer, no more.
    let echo = || equal(payload("icmp", "type"), text("echo-request"));
    table.hook(
        "input",
        NfChainType::Filter,
        NfHook::Input,
        priority::FILTER,
        DROP,
    );
    table.rule("input", [ct_state(&["established", "related"]), accept()]);
    table.rule("input", [from(TAP_NAME), echo(), accept()]);
    table.finish()
}
