//! Words and sentences of nftables, so that [`super`] can be read as rules.

use std::net::Ipv4Addr;

use nftables::batch::Batch;
use nftables::expr::{
    CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, SetItem,
};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use nftables::stmt::{Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::TABLE;

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

pub(super) fn ct_state(states: &[&str]) -> Stmt {
    let states = states.iter().map(|state| text(*state)).collect();
    compare(ct("state"), Operator::IN, Expression::List(states))
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

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
