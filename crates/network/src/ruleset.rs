//! The nftables rulesets as data. Pure: nothing here talks to the kernel.
//!
//! Two rulesets: [`host`] on the host, shared by all slots, and [`slot`] in each
//! slot's namespace.
//!
//! The host's table finds guests by the interface wildcard `hveth*` and asks sets;
//! no rule belongs to a single slot, so a packet meets the same dozen rules with
//! one slot as with thousands. A slot's policy is membership in the set
//! [`OFFLINE`].
//!
//! The host's rules accept into the rest of the host's firewall: a verdict
//! `accept` ends only our own chain, so a foreign `forward` chain that drops still
//! drops. `doctor` finds those.

mod syntax;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nftables::batch::Batch;
use nftables::expr::MetaKey;
use nftables::schema::{Element, NfListObject, Nftables};
use nftables::stmt::Statement;
use nftables::types::{NfChainType, NfFamily, NfHook};

use crate::address::{GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC, Plan, TAP_NAME, UPLINK_NAME};
use syntax::*;

/// Name of our tables.
pub(crate) const TABLE: &str = "hearth";
/// Set of host addresses whose guests may not open connections to the outside.
pub(crate) const OFFLINE: &str = "offline";

const NAMESERVERS: &str = "nameservers";
const DENIED: &str = "denied";
const FROM_GUEST: &str = "from_guest";

/// Where no guest may go, whatever its policy: "this" network, private, carrier,
/// loopback, link-local (and metadata services), protocol assignments, benchmark,
/// multicast, reserved and broadcast (RFC 6890 with RFC 1918, 3927, 6598).
const DENIED_RANGES: [(Ipv4Addr, u8); 12] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
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
    pub(super) const RAW: i32 = -300;
    pub(super) const DSTNAT: i32 = -100;
    pub(super) const FILTER: i32 = 0;
    pub(super) const SRCNAT: i32 = 100;
}

/// What the host's table depends on.
pub(crate) struct HostRules<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) nameservers: &'a [Ipv4Addr],
    /// Host addresses whose guests are cut off from the outside already.
    pub(crate) offline: &'a [Ipv4Addr],
}

/// The whole host table. It replaces an existing one in the same transaction.
pub(crate) fn host(rules: &HostRules<'_>) -> Nftables<'static> {
    let mut table = TableBuilder::replacing(NfFamily::INet);
    let denied = DENIED_RANGES
        .iter()
        .filter_map(|(address, prefix)| Ipv4Net::new(*address, *prefix).ok())
        .chain([rules.plan.slot_range(), rules.plan.link_range()]);
    table.interval_set(DENIED, &Ipv4Net::aggregate(&denied.collect()));
    table.address_set(NAMESERVERS, rules.nameservers);
    table.address_set(OFFLINE, rules.offline);

    // A source that does not belong behind the interface it came from is forged.
    table.hook(
        "spoofed",
        NfChainType::Filter,
        NfHook::Prerouting,
        priority::RAW,
        ACCEPT,
    );
    table.rule("spoofed", [from_guests(), not_ipv4(), drop_packet()]);
    table.rule("spoofed", [from_guests(), no_reverse_path(), drop_packet()]);

    to_the_host(&mut table);
    through_the_host(&mut table);
    table.hook(
        "outgoing",
        NfChainType::NAT,
        NfHook::Postrouting,
        priority::SRCNAT,
        ACCEPT,
    );
    table.rule("outgoing", [from_guests(), Statement::Masquerade(None)]);
    table.finish()
}

/// Name servers that run on the host, answers to the host's own requests, and
/// nothing else.
fn to_the_host(table: &mut TableBuilder) {
    table.hook(
        "input",
        NfChainType::Filter,
        NfHook::Input,
        priority::FILTER,
        ACCEPT,
    );
    table.rule(
        "input",
        [
            from_guests(),
            ct_state(&["established", "related"]),
            accept(),
        ],
    );
    table.rule("input", dns_to_nameserver([from_guests(), not_offline()]));
    table.rule("input", [from_guests(), drop_packet()]);
}

fn through_the_host(table: &mut TableBuilder) {
    table.chain(FROM_GUEST);
    // Before "established": taking the internet away ends what is open. Answers to
    // connections that the host opened are in direction "reply".
    table.rule(
        FROM_GUEST,
        [ct_direction_original(), offline_source(), drop_packet()],
    );
    table.rule(
        FROM_GUEST,
        [ct_state(&["established", "related"]), accept()],
    );
    table.rule(FROM_GUEST, [ct_state(&["invalid"]), drop_packet()]);
    table.rule(FROM_GUEST, [to_guests(), drop_packet()]);
    // Paths narrower than the guest's 1500 bytes: no black holes where ICMP is lost.
    table.rule(FROM_GUEST, [tcp_syn(), clamp_segment_size()]);
    table.rule(FROM_GUEST, dns_to_nameserver([]));
    table.rule(
        FROM_GUEST,
        [ip("daddr", set_reference(DENIED)), drop_packet()],
    );
    table.rule(FROM_GUEST, [accept()]);

    table.hook(
        "forward",
        NfChainType::Filter,
        NfHook::Forward,
        priority::FILTER,
        ACCEPT,
    );
    table.rule("forward", [from_guests(), goto(FROM_GUEST)]);
    table.rule("forward", [to_guests(), tcp_syn(), clamp_segment_size()]);
    table.rule(
        "forward",
        [to_guests(), ct_state(&["established", "related"]), accept()],
    );
    // Only the host itself opens connections to guests, and that is not forwarding.
    table.rule("forward", [to_guests(), drop_packet()]);
}

/// Removes the host's table. The `add` makes it succeed when there is none.
pub(crate) fn remove_host() -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(table_object(NfFamily::INet));
    batch.delete(table_object(NfFamily::INet));
    batch.to_nftables()
}

/// Takes addresses into [`OFFLINE`] or out of it, in order, as one transaction.
pub(crate) fn offline_changes(changes: &[(Ipv4Addr, bool)]) -> Nftables<'static> {
    let mut batch = Batch::new();
    for (address, offline) in changes {
        let element = || {
            NfListObject::Element(Element {
                family: NfFamily::INet,
                table: TABLE.into(),
                name: OFFLINE.into(),
                elem: vec![text(address.to_string())].into(),
            })
        };
        // Removing needs presence, adding tolerates it: both are idempotent so.
        batch.add(element());
        if !offline {
            batch.delete(element());
        }
    }
    batch.to_nftables()
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
