//! The host's table, in the language of `nft`. Only numbers and addresses are put
//! into it, so nothing needs quoting.

use std::fmt::{Display, Write};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{DENIED_RANGES, TABLE};
use crate::address::{Plan, VETH_PREFIX};
use crate::policy::{Divert, EVERYWHERE, Policy};
use crate::services::{
    EDGE_ADDRESS, NODE_ADDRESS, ON_BEHALF_MARK, SERVICE_ADDRESS, ServicePorts, VOLUMES_PORT,
};

/// What the host's table depends on.
pub(crate) struct HostRules<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) nameservers: &'a [Ipv4Addr],
    pub(crate) services: Option<ServicePorts>,
    /// Tracked connections that one guest may have; none is no limit.
    pub(crate) connections_max: Option<u32>,
    /// Bits per second of one guest, in each direction.
    pub(crate) bandwidth_max: Option<u64>,
    /// Policies that are in force from the first moment on.
    pub(crate) policies: &'a [(u32, Policy)],
    /// Where no guest may go beside what none ever may.
    pub(crate) deny: &'a [Ipv4Net],
    /// Whether guests may deliver mail (TCP port 25).
    pub(crate) smtp: bool,
}

/// The whole host table. It replaces an existing one in the same transaction.
#[expect(
    clippy::too_many_lines,
    reason = "the table's text, which is read best in one piece"
)]
pub(crate) fn host(rules: &HostRules<'_>) -> String {
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
    let denied = DENIED_RANGES
        .iter()
        .filter_map(|(address, prefix)| Ipv4Net::new(*address, *prefix).ok())
        .chain([rules.plan.slot_range(), rules.plan.link_range()])
        .chain([SERVICE_ADDRESS, EDGE_ADDRESS].map(Ipv4Net::from))
        .chain(rules.deny.iter().copied());
    let denied = elements(&Ipv4Net::aggregate(&denied.collect()));
    let nameservers = elements(rules.nameservers);
    let connection_limit = rules.connections_max.map_or(String::new(), |most| {
        format!("ct state new add @connections {{ ip saddr ct count over {most} }} drop")
    });
    let guests = format!("\"{VETH_PREFIX}*\"");
    let (mail, mail_on_behalf) = match rules.smtp {
        true => (String::new(), String::new()),
        false => (
            "tcp dport 25 reject with tcp reset".to_owned(),
            format!("meta mark {ON_BEHALF_MARK} tcp dport 25 reject with tcp reset"),
        ),
    };
    let bandwidth = rules
        .bandwidth_max
        .map_or(String::new(), |most| bandwidth(most, &guests));
    let services = rules.services.map(|ports| services(ports, &guests));
    let (service_input, diverted) = services.unwrap_or_default();
    let _ = write!(
        text,
        r#"table inet {TABLE} {{
    set denied {{ type ipv4_addr; flags interval; {denied} }}
    set nameservers {{ type ipv4_addr; {nameservers} }}
    set connections {{ type ipv4_addr; size 65535; flags dynamic; }}
    map policies {{ type ipv4_addr : verdict; }}
    map diversions {{ type ipv4_addr : verdict; }}

    # A source that does not belong behind the interface it came from is forged.
    chain spoofed {{
        type filter hook prerouting priority raw; policy accept;
        iifname {guests} meta nfproto != ipv4 drop
        iifname {guests} fib saddr . iif oif missing drop
    }}

    {bandwidth}

    # What a guest sends to the node, and what the proxy decides.
    chain diverted {{
        type nat hook prerouting priority dstnat; policy accept;
        {diverted}
    }}

    # The node's services and name servers on the host, answers to the host's own
    # requests, and nothing else.
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {guests} ct state established,related accept
        iifname {guests} {connection_limit_or_pass}
        {service_input}
        iifname {guests} ct direction original ip saddr vmap @policies
        iifname {guests} ip daddr @nameservers meta l4proto {{ tcp, udp }} th dport 53 accept
        iifname {guests} drop
    }}

    chain from_guest {{
        # Before "established": a policy that takes something away ends what is
        # open. Answers to connections that the host opened are in direction
        # "reply".
        ct direction original ip saddr vmap @policies
        ct state established,related accept
        ct state invalid drop
        oifname {guests} drop
        {connection_limit}
        # Paths narrower than the guest's 1500 bytes: no black holes where ICMP is
        # lost.
        tcp flags syn / syn,rst tcp option maxseg size set rt mtu
        ip daddr @nameservers meta l4proto {{ tcp, udp }} th dport 53 accept
        ip daddr @denied drop
        {mail}
        accept
    }}

    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname {guests} goto from_guest
        oifname {guests} tcp flags syn / syn,rst tcp option maxseg size set rt mtu
        oifname {guests} ct state established,related accept
        # Only the host itself opens connections to guests, and that is not
        # forwarding.
        oifname {guests} drop
    }}

    # What the node does on behalf of a guest is no way around the guest's limits.
    chain on_behalf {{
        type filter hook output priority filter; policy accept;
        meta mark {ON_BEHALF_MARK} fib daddr type != unicast reject
        meta mark {ON_BEHALF_MARK} meta nfproto ipv4 ip daddr @denied reject
        {mail_on_behalf}
    }}

    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        iifname {guests} masquerade
    }}
}}
"#,
        connection_limit_or_pass = if connection_limit.is_empty() {
            "continue"
        } else {
            &connection_limit
        },
    );
    for (index, policy) in rules.policies {
        text.push_str(&policy_change(
            *index,
            rules.plan.host_address(*index),
            policy,
            rules.services,
        ));
    }
    text
}

/// Drops what a guest sends, or is sent, beyond its own bandwidth. What one guest
/// does takes nothing from another's; the sets are asked, no rule is a guest's own.
fn bandwidth(bits_per_second: u64, guests: &str) -> String {
    /// Below this, segments that the kernel has joined would never pass.
    const LEAST_BURST_KIB: u64 = 256;
    let rate = (bits_per_second / 8 / 1024).max(1);
    // What queues elsewhere for a tenth of a second passes at once.
    let burst = (rate / 10).max(LEAST_BURST_KIB);
    let over = format!("limit rate over {rate} kbytes/second burst {burst} kbytes");
    format!(
        "set sent {{ type ipv4_addr; size 65535; flags dynamic; }}
    set received {{ type ipv4_addr; size 65535; flags dynamic; }}
    chain sending {{
        type filter hook prerouting priority mangle; policy accept;
        iifname {guests} add @sent {{ ip saddr {over} }} drop
    }}
    chain receiving {{
        type filter hook postrouting priority mangle; policy accept;
        oifname {guests} add @received {{ ip daddr {over} }} drop
    }}"
    )
}

/// Rules of `input` and of `diverted` for the node's services.
fn services(ports: ServicePorts, guests: &str) -> (String, String) {
    let ServicePorts {
        dns,
        events,
        proxy,
        edge,
        volumes,
    } = ports;
    let input = format!(
        "iifname {guests} ct status dnat ip daddr {NODE_ADDRESS} udp dport {dns} accept
        iifname {guests} ct status dnat ip daddr {NODE_ADDRESS} tcp dport {{ {} }} accept
        iifname != \"lo\" iifname != {guests} ip daddr {NODE_ADDRESS} drop",
        elements_of(&[dns, events, proxy, edge, volumes]),
    );
    let to = |port: u16| format!("dnat ip to {NODE_ADDRESS}:{port}");
    let diverted = format!(
        "iifname != {guests} accept
        ip daddr {SERVICE_ADDRESS} meta l4proto {{ tcp, udp }} th dport 53 {}
        ip daddr {SERVICE_ADDRESS} tcp dport 80 {}
        ip daddr {SERVICE_ADDRESS} tcp dport {VOLUMES_PORT} {}
        ip daddr {EDGE_ADDRESS} meta l4proto tcp {}
        ip saddr vmap @diversions",
        to(dns),
        to(events),
        to(volumes),
        to(edge),
    );
    (input, diverted)
}

/// Gives slot `index` this policy in the place of any other. All changes of one
/// text are one transaction.
pub(crate) fn policy_change(
    index: u32,
    address: Ipv4Addr,
    policy: &Policy,
    services: Option<ServicePorts>,
) -> String {
    let policy = policy.normal();
    let mut text = String::new();
    let restricted = !policy.is_plain();
    replace(
        &mut text,
        "policies",
        &format!("policy_{index}"),
        address,
        restricted.then(|| decisions(&policy)),
    );
    // Without the proxy nothing can be diverted; what would have been is decided by
    // the lists alone.
    let diversions = services
        .filter(|_| policy.diverts())
        .map(|ports| diversions(&policy, ports));
    replace(
        &mut text,
        "diversions",
        &format!("divert_{index}"),
        address,
        diversions,
    );
    text
}

/// Makes `chain` what `map` leads to from `address`, or removes both. The additions
/// tolerate presence and make removals succeed where there is nothing.
fn replace(
    text: &mut String,
    map: &str,
    chain: &str,
    address: Ipv4Addr,
    rules: Option<Vec<String>>,
) {
    let element = format!("element inet {TABLE} {map} {{ {address} : jump {chain} }}");
    let _ = writeln!(text, "add chain inet {TABLE} {chain}");
    let _ = writeln!(text, "flush chain inet {TABLE} {chain}");
    let _ = writeln!(text, "add {element}");
    match rules {
        Some(rules) => {
            for rule in rules {
                let _ = writeln!(text, "add rule inet {TABLE} {chain} {rule}");
            }
        }
        None => {
            let _ = writeln!(text, "delete {element}");
            let _ = writeln!(text, "delete chain inet {TABLE} {chain}");
        }
    }
}

fn decisions(policy: &Policy) -> Vec<String> {
    let mut rules = Vec::new();
    if !policy.allow.is_empty() {
        rules.push(format!(
            "ip daddr {{ {} }} return",
            elements_of(&policy.allow)
        ));
    }
    if policy.deny == [EVERYWHERE] {
        rules.push("drop".to_owned());
    } else if !policy.deny.is_empty() {
        rules.push(format!("ip daddr {{ {} }} drop", elements_of(&policy.deny)));
    }
    rules
}

fn diversions(policy: &Policy, ports: ServicePorts) -> Vec<String> {
    let to = |port: u16| format!("dnat ip to {NODE_ADDRESS}:{port}");
    let allowed = (!policy.allow.is_empty()).then(|| elements_of(&policy.allow));
    let mut rules = Vec::new();
    if policy.divert_dns {
        // First: a template may name a server that is private.
        let others = allowed.as_ref().map_or(String::new(), |allowed| {
            format!("ip daddr != {{ {allowed} }} ")
        });
        rules.push(format!(
            "{others}meta l4proto {{ tcp, udp }} th dport 53 {}",
            to(ports.dns)
        ));
    }
    // These, and the host's own addresses, are refused where they arrive.
    rules.push("ip daddr @denied return".to_owned());
    rules.push("fib daddr type != unicast return".to_owned());
    let proxy = to(ports.proxy);
    match &policy.divert {
        Divert::Nothing => {}
        Divert::Undecided => {
            rules.extend(allowed.map(|allowed| format!("ip daddr {{ {allowed} }} return")));
            rules.push(format!("meta l4proto tcp {proxy}"));
        }
        Divert::Ports(ports) => {
            rules.push(format!("tcp dport {{ {} }} {proxy}", elements_of(ports)));
        }
        Divert::Everything => rules.push(format!("meta l4proto tcp {proxy}")),
    }
    rules
}

/// Removes the host's table. The `add` makes it succeed when there is none.
pub(crate) fn remove_host() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// `elements = { … };`, or nothing where there are none.
fn elements<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }};", elements_of(items))
    }
}

fn elements_of<T: Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
