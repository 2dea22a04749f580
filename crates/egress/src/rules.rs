//! A sandbox's egress settings, read from the JSON of the REST contract, and every
//! decision that follows from them. Pure.
//!
//! The kernel gets what addresses decide ([`Rules::policy`]); the proxy and the
//! forwarder ask the rest. All three come from the same fields, so they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use hearth_network::services::EDGE_ADDRESS;
use hearth_network::{Divert, EVERYWHERE, Policy};
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

use crate::names::Destination;

/// Where HTTPS is expected by `rules` that name no port.
const HTTPS_PORT: u16 = 443;

/// The settings cannot be read. They were checked when they were accepted, so
/// this is damage, and the sandbox must not get more than it was given.
#[derive(Debug, thiserror::Error)]
#[error("read a sandbox's network settings: {0}")]
pub struct RulesError(String);

/// What one sandbox may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    allow: Vec<Ipv4Net>,
    deny: Vec<Ipv4Net>,
    names: Vec<Destination>,
    /// Names of sandboxes: all of them have the edge's address.
    denied_names: Vec<Destination>,
    dns_servers: Option<Vec<Ipv4Addr>>,
    transforms: Vec<Transform>,
    upstream: Option<Upstream>,
}

/// Headers that are set in HTTPS requests to matching hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    pub host: Destination,
    /// Values may hold placeholders such as `${e2b.secrets.name}`.
    pub headers: BTreeMap<String, String>,
}

/// A proxy of the user's that outbound TCP goes through.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Upstream {
    /// `host:port`, perhaps with a scheme in front.
    pub address: String,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
    #[serde(default)]
    pub tls: Option<UpstreamTls>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTls {
    pub enabled: bool,
    #[serde(default)]
    pub server_name: Option<String>,
    #[serde(default)]
    pub ca_cert: Option<String>,
}

/// What the forwarder does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    Resolve,
    /// Names are a way out too: what may not be reached is not looked up.
    Refuse,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Its address is enough.
    ByAddress,
    /// Its name is what is allowed: only addresses of that name will do.
    ByName,
    Deny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    dns_servers: Option<Vec<Ipv4Addr>>,
    egress_proxy: Option<Upstream>,
    rules: Option<BTreeMap<String, Vec<WireRule>>>,
}

#[derive(Debug, Deserialize)]
struct WireRule {
    transform: Option<WireTransform>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireTransform {
    headers: BTreeMap<String, String>,
}

impl Rules {
    /// Reads a sandbox's settings. Empty JSON means that none were given;
    /// `internet` is `allow_internet_access`, absent when it was not said.
    ///
    /// # Errors
    /// For anything that has not the contract's form.
    pub fn parse(internet: Option<bool>, network_json: &str) -> Result<Self, RulesError> {
        let wire: Wire = match network_json.trim() {
            "" | "null" => Wire::default(),
            json => serde_json::from_str(json).map_err(|error| RulesError(error.to_string()))?,
        };
        let mut rules = Self {
            dns_servers: wire.dns_servers,
            upstream: wire.egress_proxy,
            ..Self::default()
        };
        for entry in wire.allow_out.unwrap_or_default() {
            match network(&entry) {
                Some(IpNet::V4(net)) => rules.allow.push(net.trunc()),
                // Guests have no IPv6: there is nothing to let through.
                Some(IpNet::V6(_)) => {}
                None => rules.names.push(destination(&entry)?),
            }
        }
        for entry in wire.deny_out.unwrap_or_default() {
            match network(&entry) {
                Some(IpNet::V4(net)) => rules.deny.push(net.trunc()),
                Some(IpNet::V6(_)) => {}
                None => rules.denied_names.push(Destination {
                    // Every listener of the edge leads to the same sandboxes.
                    port: None,
                    ..destination(&entry)?
                }),
            }
        }
        if internet == Some(false) {
            rules.deny.push(EVERYWHERE);
        }
        for (host, list) in wire.rules.unwrap_or_default() {
            let host = destination(&host)?;
            for headers in list.into_iter().filter_map(|rule| rule.transform) {
                rules.transforms.push(Transform {
                    host: host.clone(),
                    headers: headers.headers,
                });
            }
        }
        rules
            .transforms
            .sort_by_key(|transform| std::cmp::Reverse(transform.host.precision()));
        Ok(rules)
    }

    /// Nothing at all: for settings that cannot be read.
    #[must_use]
    pub fn offline() -> Self {
        Self {
            deny: vec![EVERYWHERE],
            ..Self::default()
        }
    }

    /// The part that the kernel carries out.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut allow = self.allow.clone();
        if !self.names.is_empty() {
            let servers = self.dns_servers.iter().flatten();
            allow.extend(servers.map(|server| Ipv4Net::from(*server)));
        }
        let divert = match (
            &self.upstream,
            self.names.is_empty(),
            self.transforms.is_empty(),
        ) {
            (Some(_), _, _) | (None, false, false) => Divert::Everything,
            (None, false, true) => Divert::Undecided,
            (None, true, false) => Divert::Ports(self.https_ports().into_iter().collect()),
            (None, true, true) => Divert::Nothing,
        };
        Policy {
            allow,
            deny: self.deny.clone(),
            divert,
            divert_dns: !self.names.is_empty() && self.dns_servers.is_none(),
        }
    }

    /// The ports at which requests may be changed.
    fn https_ports(&self) -> BTreeSet<u16> {
        let ports = self.transforms.iter().map(|transform| transform.host.port);
        ports.map(|port| port.unwrap_or(HTTPS_PORT)).collect()
    }

    /// Whether clients that connect to `port` are expected to speak first: there the
    /// rules have requests changed.
    #[must_use]
    pub fn expects_https(&self, port: u16) -> bool {
        self.https_ports().contains(&port)
    }

    /// Whether a connection's name can change what becomes of it.
    #[must_use]
    pub fn asks_names(&self) -> bool {
        !self.names.is_empty() || !self.transforms.is_empty()
    }

    /// What becomes of a connection to `port` of `address` whose name, in its normal
    /// form, is `name` where one is known.
    #[must_use]
    pub fn decide(&self, address: Ipv4Addr, port: u16, name: Option<&str>) -> Decision {
        let within = |nets: &[Ipv4Net]| nets.iter().any(|net| net.contains(&address));
        let server =
            || !self.names.is_empty() && self.dns_servers.iter().flatten().any(|s| *s == address);
        if within(&self.allow) || server() {
            Decision::ByAddress
        } else if name.is_some_and(|name| self.names_allow(name, port)) {
            Decision::ByName
        } else if within(&self.deny) {
            Decision::Deny
        } else {
            Decision::ByAddress
        }
    }

    /// Whether the name alone opens the way to it.
    #[must_use]
    pub fn names_allow(&self, name: &str, port: u16) -> bool {
        self.names.iter().any(|one| one.matches(name, port))
    }

    /// Whether something sent to `port` of the edge may pass, for whom any of `names`
    /// stands. All sandboxes have the edge's address: one is denied by its name, or
    /// all of them with everything.
    #[must_use]
    pub fn edge_permits(&self, port: u16, names: &[Option<&str>]) -> bool {
        let named = |list: &[Destination], matches: &dyn Fn(&Destination, &str) -> bool| {
            let mut names = names.iter().flatten();
            names.any(|name| list.iter().any(|one| matches(one, name)))
        };
        let by_address = self.allow.iter().any(|net| net.contains(&EDGE_ADDRESS));
        let by_name = named(&self.names, &|one, name| one.matches(name, port));
        let denied = named(&self.denied_names, &|one, name| one.host.matches(name));
        by_address || by_name || !(denied || self.denies_everything())
    }

    /// Whether the name at the beginning of a connection to the edge matters: what is
    /// denied by name is so request by request.
    #[must_use]
    pub fn asks_edge_names(&self) -> bool {
        self.denies_everything() || self.has_transforms()
    }

    /// What the forwarder does with a question about `name`; some questions have none.
    /// Where some address is allowed, names resolve: which of them lead there is known
    /// only by looking them up.
    #[must_use]
    pub fn lookup(&self, name: Option<&str>) -> Lookup {
        let silenced = !self.names.is_empty() && self.dns_servers.as_deref() == Some(&[]);
        let named = || {
            let mut names = self.names.iter();
            name.is_some_and(|name| names.any(|one| one.host.matches(name)))
        };
        let open = !self.denies_everything() || !self.allow.is_empty() || named();
        if open && !silenced {
            Lookup::Resolve
        } else {
            Lookup::Refuse
        }
    }

    /// Whether everything but what is allowed by name or address is denied.
    #[must_use]
    pub fn denies_everything(&self) -> bool {
        self.deny.contains(&EVERYWHERE)
    }

    /// The headers to set for a host: those of the most precise rule. A rule without
    /// a port is about HTTPS at its usual port, and at any of the edge's (`edge`).
    #[must_use]
    pub fn transform(&self, name: &str, port: u16, edge: bool) -> Option<&Transform> {
        self.transforms.iter().find(|transform| {
            let usual = edge || port == HTTPS_PORT;
            transform.host.matches(name, port) && (transform.host.port.is_some() || usual)
        })
    }

    #[must_use]
    pub fn has_transforms(&self) -> bool {
        !self.transforms.is_empty()
    }

    #[must_use]
    pub fn upstream(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn destination(text: &str) -> Result<Destination, RulesError> {
    Destination::parse(text).ok_or_else(|| RulesError(format!("{text:?} is no host name")))
}

#[cfg(test)]
mod tests;
