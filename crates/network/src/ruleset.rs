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

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression,
    Payload, PayloadField, Prefix, RT, RTKey, SetItem, TcpOption,
};
use nftables::schema::{
    Chain, Element, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::stmt::{JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use crate::address::{
    GATEWAY_ADDRESS, GUEST_ADDRESS, GUEST_MAC, Plan, TAP_NAME, UPLINK_NAME, VETH_PREFIX,
};

/// Name of our tables.
pub(crate) const TABLE: &str = "hearth";
/// Set of host addresses whose guests may not open connections to the outside.
pub(crate) const OFFLINE: &str = "offline";

const NAMESERVERS: &str = "nameservers";
const DENIED: &str = "denied";
const FROM_GUEST: &str = "from_guest";
const DNS_PORT: u32 = 53;

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

    // To the host itself: name servers that run here, and answers to the host's
    // own requests.
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
    let mut ingress = TableBuilder::replacing(NfFamily::NetDev);
    // Nothing passes the TAP but IPv4 and ARP that name the guest's own addresses.
    ingress.device_hook("guest", TAP_NAME, NfHook::Ingress, priority::FIRST);
    let mac = || text(mac_text(GUEST_MAC));
    let from_mac = || equal(payload("ether", "saddr"), mac());
    let address = || text(GUEST_ADDRESS.to_string());
    ingress.rule(
        "guest",
        [
            from_mac(),
            equal(payload("ip", "saddr"), address()),
            accept(),
        ],
    );
    ingress.rule(
        "guest",
        [
            from_mac(),
            equal(
                payload("arp", "operation"),
                anonymous_set(&["request", "reply"]),
            ),
            equal(payload("arp", "saddr ether"), mac()),
            equal(payload("arp", "saddr ip"), address()),
            accept(),
        ],
    );

    let mut table = TableBuilder::replacing(NfFamily::INet);
    let from = |name: &str| equal(meta(MetaKey::Iifname), text(name));
    let to = |name: &str| equal(meta(MetaKey::Oifname), text(name));
    table.hook(
        "incoming",
        NfChainType::NAT,
        NfHook::Prerouting,
        priority::DSTNAT,
        ACCEPT,
    );
    table.rule(
        "incoming",
        [
            from(UPLINK_NAME),
            equal(payload("ip", "daddr"), text(host_address.to_string())),
            Statement::DNAT(Some(nat_to(GUEST_ADDRESS))),
        ],
    );
    table.hook(
        "outgoing",
        NfChainType::NAT,
        NfHook::Postrouting,
        priority::SRCNAT,
        ACCEPT,
    );
    table.rule(
        "outgoing",
        [to(UPLINK_NAME), Statement::SNAT(Some(nat_to(host_address)))],
    );
    // A guest sees every caller as its gateway, which is on its own link: whatever
    // networks it sets up inside cannot get in the way of its answers.
    table.rule(
        "outgoing",
        [to(TAP_NAME), Statement::SNAT(Some(nat_to(GATEWAY_ADDRESS)))],
    );

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
    table.hook(
        "input",
        NfChainType::Filter,
        NfHook::Input,
        priority::FILTER,
        DROP,
    );
    table.rule("input", [ct_state(&["established", "related"]), accept()]);
    table.rule(
        "input",
        [
            from(TAP_NAME),
            equal(payload("icmp", "type"), text("echo-request")),
            accept(),
        ],
    );

    let mut objects = ingress.finish().objects.into_owned();
    objects.extend(table.finish().objects.into_owned());
    Nftables {
        objects: objects.into(),
    }
}

const ACCEPT: NfChainPolicy = NfChainPolicy::Accept;
const DROP: NfChainPolicy = NfChainPolicy::Drop;

/// Collects the objects of one table.
struct TableBuilder {
    batch: Batch<'static>,
    family: NfFamily,
}

impl TableBuilder {
    fn replacing(family: NfFamily) -> Self {
        let mut batch = Batch::new();
        batch.add(table_object(family));
        batch.delete(table_object(family));
        batch.add(table_object(family));
        Self { batch, family }
    }

    fn finish(self) -> Nftables<'static> {
        self.batch.to_nftables()
    }

    fn set(&mut self, name: &'static str, flags: Option<HashSet<SetFlag>>, elem: Vec<Expr>) {
        self.batch.add(NfListObject::Set(Box::new(Set {
            family: self.family,
            table: TABLE.into(),
            name: name.into(),
            set_type: SetTypeValue::Single(SetType::Ipv4Addr),
            flags,
            elem: (!elem.is_empty()).then(|| elem.into()),
            ..Set::default()
        })));
    }

    fn address_set(&mut self, name: &'static str, addresses: &[Ipv4Addr]) {
        self.set(
            name,
            None,
            addresses
                .iter()
                .map(|address| text(address.to_string()))
                .collect(),
        );
    }

    fn interval_set(&mut self, name: &'static str, networks: &[Ipv4Net]) {
        let elements = networks.iter().map(|network| {
            Expression::Named(NamedExpression::Prefix(Prefix {
                addr: Box::new(text(network.network().to_string())),
                len: u32::from(network.prefix_len()),
            }))
        });
        self.set(
            name,
            Some(HashSet::from([SetFlag::Interval])),
            elements.collect(),
        );
    }

    fn chain(&mut self, name: &'static str) {
        self.batch.add(NfListObject::Chain(Chain {
            family: self.family,
            table: TABLE.into(),
            name: name.into(),
            ..Chain::default()
        }));
    }

    fn hook(
        &mut self,
        name: &'static str,
        kind: NfChainType,
        hook: NfHook,
        prio: i32,
        policy: NfChainPolicy,
    ) {
        self.batch.add(NfListObject::Chain(Chain {
            family: self.family,
            table: TABLE.into(),
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(prio),
            policy: Some(policy),
            ..Chain::default()
        }));
    }

    fn device_hook(&mut self, name: &'static str, dev: &'static str, hook: NfHook, prio: i32) {
        self.batch.add(NfListObject::Chain(Chain {
            family: self.family,
            table: TABLE.into(),
            name: name.into(),
            _type: Some(NfChainType::Filter),
            hook: Some(hook),
            prio: Some(prio),
            dev: Some(dev.into()),
            policy: Some(DROP),
            ..Chain::default()
        }));
    }

    fn rule(&mut self, chain: &'static str, expr: impl IntoIterator<Item = Statement<'static>>) {
        self.batch.add(NfListObject::Rule(Rule {
            family: self.family,
            table: TABLE.into(),
            chain: chain.into(),
            expr: expr.into_iter().collect::<Vec<_>>().into(),
            ..Rule::default()
        }));
    }
}

type Expr = Expression<'static>;
type Stmt = Statement<'static>;

fn table_object(family: NfFamily) -> NfListObject<'static> {
    NfListObject::Table(Table {
        family,
        name: TABLE.into(),
        handle: None,
    })
}

fn text(value: impl Into<String>) -> Expr {
    Expression::String(value.into().into())
}

fn set_reference(name: &str) -> Expr {
    text(format!("@{name}"))
}

fn anonymous_set(values: &[&str]) -> Expr {
    let items = values
        .iter()
        .map(|value| SetItem::Element(text(*value)))
        .collect();
    Expression::Named(NamedExpression::Set(items))
}

fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expr {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

fn ct(key: &'static str) -> Expr {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

fn compare(left: Expr, op: Operator, right: Expr) -> Stmt {
    Statement::Match(Match { left, right, op })
}

fn equal(left: Expr, right: Expr) -> Stmt {
    compare(left, Operator::EQ, right)
}

fn ip(field: &'static str, right: Expr) -> Stmt {
    equal(payload("ip", field), right)
}

fn from_guests() -> Stmt {
    equal(meta(MetaKey::Iifname), text(format!("{VETH_PREFIX}*")))
}

fn to_guests() -> Stmt {
    equal(meta(MetaKey::Oifname), text(format!("{VETH_PREFIX}*")))
}

fn not_ipv4() -> Stmt {
    compare(meta(MetaKey::Nfproto), Operator::NEQ, text("ipv4"))
}

fn no_reverse_path() -> Stmt {
    let fib = Fib {
        result: FibResult::Oif,
        flags: HashSet::from([FibFlag::Saddr, FibFlag::Iif]),
    };
    equal(
        Expression::Named(NamedExpression::Fib(fib)),
        Expression::Boolean(false),
    )
}

fn ct_state(states: &[&str]) -> Stmt {
    let states = states.iter().map(|state| text(*state)).collect();
    compare(ct("state"), Operator::IN, Expression::List(states))
}

fn ct_direction_original() -> Stmt {
    equal(ct("direction"), text("original"))
}

fn offline_source() -> Stmt {
    ip("saddr", set_reference(OFFLINE))
}

fn not_offline() -> Stmt {
    compare(
        payload("ip", "saddr"),
        Operator::NEQ,
        set_reference(OFFLINE),
    )
}

fn dns_to_nameserver<const N: usize>(conditions: [Stmt; N]) -> Vec<Stmt> {
    let mut rule = Vec::from(conditions);
    rule.extend([
        ip("daddr", set_reference(NAMESERVERS)),
        equal(meta(MetaKey::L4proto), anonymous_set(&["tcp", "udp"])),
        equal(payload("th", "dport"), Expression::Number(DNS_PORT)),
        accept(),
    ]);
    rule
}

fn tcp_syn() -> Stmt {
    let flags = Expression::List(vec![text("syn"), text("rst")]);
    let masked = BinaryOperation::AND(payload("tcp", "flags"), flags);
    equal(Expression::BinaryOperation(Box::new(masked)), text("syn"))
}

fn clamp_segment_size() -> Stmt {
    Statement::Mangle(Mangle {
        key: Expression::Named(NamedExpression::TcpOption(TcpOption {
            name: "maxseg".into(),
            field: Some("size".into()),
        })),
        value: Expression::Named(NamedExpression::RT(RT {
            key: RTKey::MTU,
            family: None,
        })),
    })
}

fn nat_to(address: Ipv4Addr) -> NAT<'static> {
    NAT {
        addr: Some(text(address.to_string())),
        family: Some(NATFamily::IP),
        port: None,
        flags: None,
    }
}

fn accept() -> Stmt {
    Statement::Accept(None)
}

fn drop_packet() -> Stmt {
    Statement::Drop(None)
}

fn goto(target: &'static str) -> Stmt {
    Statement::Goto(JumpTarget {
        target: target.into(),
    })
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
