//! Network settings of a sandbox: the shape in which they are kept and handed
//! on, and what a caller may ask for. The JSON form is the REST contract's.

use crate::config::Features;
use crate::error::{Error, Kind};
use hearth_ids::SandboxId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Of all settings together, in their JSON form: room for as many destinations as
/// there may be, but not for as many of the longest names.
const MAX_BYTES: usize = 64 * 1024;
const MAX_DESTINATIONS: usize = 1000;
const MAX_RULE_DOMAINS: usize = 10;
const MAX_HEADERS: usize = 20;
const MAX_HTTPS_PORTS: usize = 100;
const MAX_DNS_SERVERS: usize = 10;
const ENVD_PORT: u16 = 49983;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_public_traffic: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_out: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny_out: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_request_host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_ports: Option<Vec<u16>>,
    /// By domain, in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<BTreeMap<String, Vec<NetworkRule>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressProxy {
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EgressProxyTls>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressProxyTls {
    pub enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<HeaderTransform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderTransform {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// New egress settings for a running sandbox; they replace all the old ones.
#[derive(Debug, Clone, Default)]
pub struct NetworkUpdate {
    pub allow_out: Option<Vec<String>>,
    pub deny_out: Option<Vec<String>>,
    pub dns_servers: Option<Vec<String>>,
    pub egress_proxy: Option<EgressProxy>,
    pub rules: Option<BTreeMap<String, Vec<NetworkRule>>>,
    pub allow_internet_access: Option<bool>,
}

impl NetworkUpdate {
    /// The settings after the update: the incoming side stays as it was.
    pub(crate) fn apply(self, old: Option<&NetworkSettings>) -> NetworkSettings {
        let mut deny_out = self.deny_out;
        if self.allow_internet_access == Some(false) {
            let denied = deny_out.get_or_insert_default();
            if !denied.iter().any(|net| net == ALL_TRAFFIC) {
                denied.push(ALL_TRAFFIC.to_owned());
            }
        }
        NetworkSettings {
            allow_out: self.allow_out,
            deny_out,
            dns_servers: self.dns_servers,
            egress_proxy: self.egress_proxy,
            rules: self.rules,
            ..old.cloned().unwrap_or_default()
        }
    }
}

/// Everything: denied where the internet is off.
const ALL_TRAFFIC: &str = "0.0.0.0/0";

impl NetworkSettings {
    /// Whether the sandbox's URLs answer without its traffic token.
    #[must_use]
    pub fn public(&self) -> bool {
        self.allow_public_traffic.unwrap_or(true)
    }

    /// Checks the settings and brings them to their normal form.
    /// `internet_denied` says that `allow_internet_access` is false, which counts
    /// as a denial of everything.
    /// `domain` is that of the sandboxes' host names, perhaps with a port.
    pub(crate) fn check(
        mut self,
        features: Features,
        internet_denied: bool,
        domain: &str,
    ) -> Result<Self, Error> {
        let restricts = self.allow_out.is_some() || self.deny_out.is_some();
        if restricts && !features.egress_rules {
            return Err(Error::new(
                Kind::Forbidden,
                "restricting a sandbox's access to parts of the internet is not enabled",
            ));
        }
        let denies_all = internet_denied || denies_all(self.deny_out.as_deref());
        check_allow_out(self.allow_out.as_deref().unwrap_or_default(), denies_all)?;
        check_deny_out(self.deny_out.as_deref().unwrap_or_default(), domain)?;
        check_dns_servers(self.dns_servers.as_deref().unwrap_or_default())?;
        check_https_ports(self.https_ports.as_deref().unwrap_or_default())?;
        if let Some(host) = &self.mask_request_host {
            check_mask(host)?;
        }
        if let Some(proxy) = &self.egress_proxy {
            check_egress_proxy(proxy, features)?;
        }
        if let Some(rules) = self.rules.take() {
            self.rules = Some(check_rules(rules, features)?);
        }
        self.check_size()?;
        Ok(self)
    }
}

impl NetworkSettings {
    /// Bounds all of the settings together, and with them every text in them: the
    /// node keeps them with the sandbox, paused or not.
    fn check_size(&self) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(Error::internal)?.len();
        if bytes <= MAX_BYTES {
            return Ok(());
        }
        Err(Error::invalid(
            "network",
            format_args!("must have at most {MAX_BYTES} bytes as JSON, has {bytes}"),
        ))
    }
}

fn denies_all(deny_out: Option<&[String]>) -> bool {
    deny_out.unwrap_or_default().iter().any(|entry| {
        matches!(parse_net(entry), Some(IpNet::V4(net))
            if net.prefix_len() == 0 && net.network() == Ipv4Addr::UNSPECIFIED)
    })
}

fn check_allow_out(entries: &[String], denies_all: bool) -> Result<(), Error> {
    bounded("network.allowOut", entries.len(), MAX_DESTINATIONS)?;
    for (index, entry) in entries.iter().enumerate() {
        if parse_net(entry).is_some() {
            continue;
        }
        let field = format!("network.allowOut[{index}]");
        if destination(entry).is_none_or(|(host, _)| host != "*" && !is_domain_pattern(host)) {
            return Err(Error::invalid(
                &field,
                format_args!(
                    "{entry:?} is no IP address, CIDR block or domain name (which alone may \
                     have a port)"
                ),
            ));
        }
        if !denies_all {
            return Err(Error::invalid(
                &field,
                format_args!(
                    "domain names can be allowed only where network.denyOut contains {ALL_TRAFFIC}"
                ),
            ));
        }
    }
    Ok(())
}

/// Addresses, and host names of sandboxes: those always lead through the node, which
/// knows whom they are for. Any other name is but a hint at addresses.
fn check_deny_out(entries: &[String], domain: &str) -> Result<(), Error> {
    bounded("network.denyOut", entries.len(), MAX_DESTINATIONS)?;
    let fits = |entry: &String| parse_net(entry).is_some() || is_sandbox_host(entry, domain);
    match entries.iter().position(|entry| !fits(entry)) {
        Some(index) => Err(Error::invalid(
            &format!("network.denyOut[{index}]"),
            format_args!(
                "{:?} is no IP address, CIDR block or host name of a sandbox",
                entries[index]
            ),
        )),
        None => Ok(()),
    }
}

fn check_dns_servers(entries: &[String]) -> Result<(), Error> {
    bounded("network.dnsServers", entries.len(), MAX_DNS_SERVERS)?;
    match entries
        .iter()
        .position(|entry| entry.parse::<Ipv4Addr>().is_err())
    {
        Some(index) => Err(Error::invalid(
            &format!("network.dnsServers[{index}]"),
            format_args!("{:?} is no IPv4 address", entries[index]),
        )),
        None => Ok(()),
    }
}

fn check_https_ports(ports: &[u16]) -> Result<(), Error> {
    bounded("network.httpsPorts", ports.len(), MAX_HTTPS_PORTS)?;
    match ports
        .iter()
        .position(|port| *port == 0 || *port == ENVD_PORT)
    {
        Some(index) => Err(Error::invalid(
            &format!("network.httpsPorts[{index}]"),
            format_args!("port {} cannot be listed", ports[index]),
        )),
        None => Ok(()),
    }
}

fn check_mask(host: &str) -> Result<(), Error> {
    let with_port = host.replace("${PORT}", "65535");
    let valid = !with_port.is_empty()
        && with_port.len() <= 255
        && with_port
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    if valid {
        Ok(())
    } else {
        Err(Error::invalid(
            "network.maskRequestHost",
            format_args!("{host:?} is no host name with an optional port"),
        ))
    }
}

fn check_egress_proxy(proxy: &EgressProxy, features: Features) -> Result<(), Error> {
    if !features.egress_proxy {
        return Err(Error::new(
            Kind::Forbidden,
            "use of network.egressProxy is not enabled",
        ));
    }
    let valid = proxy.address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if valid {
        Ok(())
    } else {
        Err(Error::invalid(
            "network.egressProxy.address",
            format_args!("{:?} is not host:port", proxy.address),
        ))
    }
}

fn check_rules(
    rules: BTreeMap<String, Vec<NetworkRule>>,
    features: Features,
) -> Result<BTreeMap<String, Vec<NetworkRule>>, Error> {
    if !rules.is_empty() && !features.network_rules {
        return Err(Error::new(
            Kind::Forbidden,
            "use of network.rules is not enabled",
        ));
    }
    bounded("network.rules", rules.len(), MAX_RULE_DOMAINS)?;
    let mut normal = BTreeMap::new();
    for (domain, list) in rules {
        let field = format!("network.rules[{domain:?}]");
        let domain = domain.to_ascii_lowercase();
        if destination(&domain).is_none_or(|(host, _)| !is_domain_pattern(host)) {
            return Err(Error::invalid(&field, "is no domain name"));
        }
        bounded(&field, list.len(), 1)?;
        for rule in &list {
            let headers = rule.transform.iter().flat_map(|rule| &rule.headers);
            bounded(&field, headers.clone().count(), MAX_HEADERS)?;
            for (name, value) in headers {
                if !is_header(name, value) {
                    return Err(Error::invalid(
                        &field,
                        format_args!("{name:?} is no header that can be sent"),
                    ));
                }
            }
        }
        if normal.insert(domain, list).is_some() {
            return Err(Error::invalid(&field, "the domain occurs twice"));
        }
    }
    Ok(normal)
}

fn bounded(field: &str, count: usize, most: usize) -> Result<(), Error> {
    if count <= most {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            format_args!("must have at most {most} entries, has {count}"),
        ))
    }
}

fn parse_net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A host name and its port, where it has one, as `get_host()` of the SDKs returns it.
fn destination(text: &str) -> Option<(&str, Option<u16>)> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Some((text, None));
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0)?;
    Some((host, Some(port)))
}

/// Whether `text` is `{port}-{sandboxID}` in our domain, with or without a port.
fn is_sandbox_host(text: &str, domain: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let ours = destination(domain).map_or(domain, |(host, _)| host);
    let label = destination(&text).and_then(|(host, _)| {
        let (label, rest) = host.split_once('.')?;
        (rest == ours.to_ascii_lowercase()).then_some(label)
    });
    label
        .and_then(|label| label.split_once('-'))
        .is_some_and(|(port, id)| {
            port.parse::<u16>().is_ok_and(|port| port != 0) && id.parse::<SandboxId>().is_ok()
        })
}

/// A DNS name of at least one label, perhaps with a leading `*.`.
fn is_domain_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // What ends in a number is an IP address that went wrong.
    let numeric = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && !numeric && name.split('.').all(label)
}

fn is_header(name: &str, value: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty()
        && name.bytes().all(token)
        && value
            .bytes()
            .all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

#[cfg(test)]
mod tests;
