//! Words and sentences of nftables, so that [`super`] can be read as rules.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression,
    Payload, PayloadField, Prefix, RT, RTKey, SetItem, TcpOption,
};
use nftables::schema::{
    Chain, NfListObject, Nftables, Rule, Set, SetFlag, SetType, SetTypeValue, Table,
};
use nftables::stmt::{JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::{NAMESERVERS, OFFLINE, TABLE};
use crate::address::VETH_PREFIX;

const DNS_PORT: u32 = 53;

pub(super) const ACCEPT: NfChainPolicy = NfChainPolicy::Accept;
pub(super) const DROP: NfChainPolicy = NfChainPolicy::Drop;

/// Collects the objects of one table.
pub(super) struct TableBuilder {
    batch: Batch<'static>,
    family: NfFamily,
}

impl TableBuilder {
    pub(super) fn replacing(family: NfFamily) -> Self {
        let mut batch = Batch::new();
        batch.add(table_object(family));
        batch.delete(table_object(family));
        batch.add(table_object(family));
        Self { batch, family }
    }

    pub(super) fn finish(self) -> Nftables<'static> {
        self.batch.to_nftables()
    }

    pub(super) fn set(
        &mut self,
        name: &'static str,
        flags: Option<HashSet<SetFlag>>,
        elem: Vec<Expr>,
    ) {
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

    pub(super) fn address_set(&mut self, name: &'static str, addresses: &[Ipv4Addr]) {
        self.set(
            name,
            None,
            addresses
                .iter()
                .map(|address| text(address.to_string()))
                .collect(),
        );
    }

    pub(super) fn interval_set(&mut self, name: &'static str, networks: &[Ipv4Net]) {
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

    pub(super) fn chain(&mut self, name: &'static str) {
        self.batch.add(NfListObject::Chain(Chain {
            family: self.family,
            table: TABLE.into(),
            name: name.into(),
            ..Chain::default()
        }));
    }

    pub(super) fn hook(
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

    pub(super) fn device_hook(
        &mut self,
        name: &'static str,
        dev: &'static str,
        hook: NfHook,
        prio: i32,
    ) {
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

    pub(super) fn rule(
        &mut self,
        chain: &'static str,
        expr: impl IntoIterator<Item = Statement<'static>>,
    ) {
        self.batch.add(NfListObject::Rule(Rule {
            family: self.family,
            table: TABLE.into(),
            chain: chain.into(),
            expr: expr.into_iter().collect::<Vec<_>>().into(),
            ..Rule::default()
        }));
    }
}

pub(super) type Expr = Expression<'static>;
pub(super) type Stmt = Statement<'static>;

pub(super) fn table_object(family: NfFamily) -> NfListObject<'static> {
    NfListObject::Table(Table {
        family,
        name: TABLE.into(),
        handle: None,
    })
}

pub(super) fn text(value: impl Into<String>) -> Expr {
    Expression::String(value.into().into())
}

pub(super) fn set_reference(name: &str) -> Expr {
    text(format!("@{name}"))
}

pub(super) fn anonymous_set(values: &[&str]) -> Expr {
    let items = values
        .iter()
        .map(|value| SetItem::Element(text(*value)))
        .collect();
    Expression::Named(NamedExpression::Set(items))
}

pub(super) fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn payload(protocol: &'static str, field: &'static str) -> Expr {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(
        PayloadField {
            protocol: protocol.into(),
            field: field.into(),
        },
    )))
}

pub(super) fn ct(key: &'static str) -> Expr {
    Expression::Named(NamedExpression::CT(CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

pub(super) fn compare(left: Expr, op: Operator, right: Expr) -> Stmt {
    Statement::Match(Match { left, right, op })
}

pub(super) fn equal(left: Expr, right: Expr) -> Stmt {
    compare(left, Operator::EQ, right)
}

pub(super) fn ip(field: &'static str, right: Expr) -> Stmt {
    equal(payload("ip", field), right)
}

pub(super) fn from_guests() -> Stmt {
    equal(meta(MetaKey::Iifname), text(format!("{VETH_PREFIX}*")))
}

pub(super) fn to_guests() -> Stmt {
    equal(meta(MetaKey::Oifname), text(format!("{VETH_PREFIX}*")))
}

pub(super) fn not_ipv4() -> Stmt {
    compare(meta(MetaKey::Nfproto), Operator::NEQ, text("ipv4"))
}

pub(super) fn no_reverse_path() -> Stmt {
    let fib = Fib {
        result: FibResult::Oif,
        flags: HashSet::from([FibFlag::Saddr, FibFlag::Iif]),
    };
    equal(
        Expression::Named(NamedExpression::Fib(fib)),
        Expression::Boolean(false),
    )
}

pub(super) fn ct_state(states: &[&str]) -> Stmt {
    let states = states.iter().map(|state| text(*state)).collect();
    compare(ct("state"), Operator::IN, Expression::List(states))
}

pub(super) fn ct_direction_original() -> Stmt {
    equal(ct("direction"), text("original"))
}

pub(super) fn offline_source() -> Stmt {
    ip("saddr", set_reference(OFFLINE))
}

pub(super) fn not_offline() -> Stmt {
    compare(
        payload("ip", "saddr"),
        Operator::NEQ,
        set_reference(OFFLINE),
    )
}

pub(super) fn dns_to_nameserver<const N: usize>(conditions: [Stmt; N]) -> Vec<Stmt> {
    let mut rule = Vec::from(conditions);
    rule.extend([
        ip("daddr", set_reference(NAMESERVERS)),
        equal(meta(MetaKey::L4proto), anonymous_set(&["tcp", "udp"])),
        equal(payload("th", "dport"), Expression::Number(DNS_PORT)),
        accept(),
    ]);
    rule
}

pub(super) fn tcp_syn() -> Stmt {
    let flags = Expression::List(vec![text("syn"), text("rst")]);
    let masked = BinaryOperation::AND(payload("tcp", "flags"), flags);
    equal(Expression::BinaryOperation(Box::new(masked)), text("syn"))
}

pub(super) fn clamp_segment_size() -> Stmt {
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

pub(super) fn nat_to(address: Ipv4Addr) -> NAT<'static> {
    NAT {
        addr: Some(text(address.to_string())),
        family: Some(NATFamily::IP),
        port: None,
        flags: None,
    }
}

pub(super) fn accept() -> Stmt {
    Statement::Accept(None)
}

pub(super) fn drop_packet() -> Stmt {
    Statement::Drop(None)
}

pub(super) fn goto(target: &'static str) -> Stmt {
    Statement::Goto(JumpTarget {
        target: target.into(),
    })
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
