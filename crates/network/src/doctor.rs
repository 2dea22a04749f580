//! Checks for `hearth doctor`: can this host carry sandbox networks, and what
//! stands in the way. Nothing is changed; what must be tried is tried in a
//! namespace that vanishes with its thread.
//!
//! All functions block for some tens of milliseconds.

use std::fs;
use std::process::Command;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::address::{Plan, TAP_NAME, VETH_PREFIX};
use crate::capacity::Capacity;
use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::rtnl::Rtnl;
use crate::ruleset::{self, HostRules, TABLE};
use crate::state::State;
use crate::{conntrack, host, netns, nft, resolver, tap};

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was checked, in a word or two.
    pub name: &'static str,
    /// Whether sandboxes can work with what was found.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// The command that mends it, when there is something to mend.
    pub fix: Option<String>,
}

impl Check {
    fn passed(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok: true,
            detail: detail.into(),
            fix: None,
        }
    }

    fn failed(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            ok: false,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// Checks privileges, programs and kernel features by using them.
#[must_use]
pub fn check_tools() -> Vec<Check> {
    on_own_thread("network tools", tools)
}

/// Checks that the addresses are free, that no other firewall drops what guests
/// send, and that guests will find a name server.
#[must_use]
pub fn check_conflicts(config: &NetworkConfig) -> Vec<Check> {
    let config = config.clone();
    on_own_thread("network conflicts", move || {
        vec![
            check_ranges(&config),
            check_firewalls(),
            check_nameservers(&config),
            check_connections(&config),
        ]
    })
}

fn check_connections(config: &NetworkConfig) -> Check {
    const NAME: &str = "tracked connections";
    let Some(capacity) = Capacity::read(config) else {
        return Check::passed(NAME, "the table is not there yet");
    };
    let (table, wanted) = (capacity.table, capacity.wanted);
    let detail = match capacity.share(config) {
        None => format!("any number for a sandbox, of {table}"),
        Some(each) if wanted == table => {
            format!("{each} for each sandbox, as all may fill half of {table}")
        }
        // Nothing to refuse a start for: it makes the table larger, where that is allowed.
        Some(each) => format!(
            "{each} for each sandbox, as all may fill half of {table}; a start makes it \
             {wanted} where it may, else `sysctl -w net.netfilter.nf_conntrack_max={wanted}`"
        ),
    };
    Check::passed(NAME, detail)
}

/// The checks block, which a runtime's thread may not.
fn on_own_thread(
    name: &'static str,
    checks: impl FnOnce() -> Vec<Check> + Send + 'static,
) -> Vec<Check> {
    netns::run_on_thread(move || Ok(checks()))
        .unwrap_or_else(|error| vec![Check::failed(name, explain(&error), "see the log")])
}

fn tools() -> Vec<Check> {
    let mut checks = vec![match nft::version() {
        Ok(version) => Check::passed("nft", version),
        Err(error) => Check::failed("nft", explain(&error), "apt-get install nftables"),
    }];
    let namespace = netns::run_in_throwaway(|| Ok(()));
    checks.push(match &namespace {
        Ok(()) => Check::passed("network namespaces", "can be made"),
        Err(error) => Check::failed(
            "network namespaces",
            explain(error),
            "run hearth as root, on a kernel with CONFIG_NET_NS",
        ),
    });
    if namespace.is_err() {
        return checks;
    }
    checks.push(outcome(
        "tap",
        netns::run_in_throwaway(try_tap),
        "modprobe tun",
    ));
    checks.push(outcome(
        "nftables rules",
        netns::run_in_throwaway(try_rules),
        "modprobe -a nf_tables nft_ct nft_nat nft_masq nft_fib_inet",
    ));
    checks.push(outcome(
        "connection tracking",
        netns::run_in_throwaway(conntrack::flush),
        "modprobe nf_conntrack_netlink",
    ));
    checks
}

fn outcome(name: &'static str, result: Result<()>, fix: &str) -> Check {
    match result {
        Ok(()) => Check::passed(name, "works"),
        Err(error) => Check::failed(name, explain(&error), fix),
    }
}

fn try_tap() -> Result<()> {
    tap::create_persistent(TAP_NAME, 0)
}

/// Loads both rulesets for real, in a namespace of its own.
fn try_rules() -> Result<()> {
    tap::create_persistent(TAP_NAME, 0)?;
    let config = NetworkConfig::default();
    let plan = Plan::new(config.slot_range, config.link_range, 1)?;
    let rules = HostRules {
        plan: &plan,
        nameservers: &[],
        services: None,
        connections_max: config.connections_max,
        bandwidth_max: config.bandwidth_max,
        policies: &[(0, Policy::offline())],
        deny: &config.deny,
        smtp: config.smtp,
    };
    nft::apply("load a slot's rules", &ruleset::slot(plan.host_address(0)))?;
    nft::apply_text("load the host's rules", &ruleset::host(&rules))
}

fn check_ranges(config: &NetworkConfig) -> Check {
    const NAME: &str = "address ranges";
    const FIX: &str = "set slot_range and link_range to unused /16 networks in the configuration";
    match find_range(config) {
        Ok((plan, conflicts)) if conflicts.is_empty() => Check::passed(
            NAME,
            format!("{} and {} are free", plan.slot_range(), plan.link_range()),
        ),
        Ok((plan, conflicts)) => Check::passed(
            NAME,
            format!(
                "{} and {} will be used, because of {}",
                plan.slot_range(),
                plan.link_range(),
                conflicts.join(", ")
            ),
        ),
        Err(error) => Check::failed(NAME, explain(&error), FIX),
    }
}

/// The plan that a start would choose, and what kept it from the ones before.
fn find_range(config: &NetworkConfig) -> Result<(Plan, Vec<String>)> {
    config.validate()?;
    let rtnl = Rtnl::open()?;
    let nameservers = config.guest_nameservers();
    let remembered = State::load(&config.state_dir)?
        .map(|state| {
            Plan::new(
                state.ranges.slot_range,
                state.ranges.link_range,
                config.max_slots,
            )
        })
        .transpose()?;
    let mut conflicts = Vec::new();
    for plan in remembered.into_iter().chain(config.plans()?) {
        let ranges: [Ipv4Net; 2] = [plan.slot_range(), plan.link_range()];
        let before = conflicts.len();
        for range in ranges {
            conflicts.extend(host::overlaps(&rtnl, range, &nameservers)?);
        }
        if conflicts.len() == before {
            return Ok((plan, conflicts));
        }
    }
    Err(Error::NoFreeRange { conflicts })
}

fn check_nameservers(config: &NetworkConfig) -> Check {
    const NAME: &str = "guest name servers";
    let list = |servers: &[std::net::Ipv4Addr]| {
        servers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let servers = config.guest_nameservers();
    if config.nameservers.is_none() && resolver::host_nameservers().is_none() {
        return Check::passed(
            NAME,
            format!(
                "the host's are on loopback only; guests use {}",
                list(&servers)
            ),
        );
    }
    if servers.is_empty() {
        return Check::failed(
            NAME,
            "none of the configured name servers is an IPv4 address",
            "set nameservers to IPv4 addresses in the configuration",
        );
    }
    Check::passed(NAME, list(&servers))
}

fn check_firewalls() -> Check {
    const NAME: &str = "other firewalls";
    let mut blocking = match nft::list("list the ruleset", &["list", "ruleset"]) {
        Ok(ruleset) => dropping_forward_chains(&ruleset),
        Err(error) => return Check::failed(NAME, explain(&error), "apt-get install nftables"),
    };
    blocking.extend(legacy_forward_chain());
    if blocking.is_empty() {
        return Check::passed(NAME, "none drops forwarded packets");
    }
    let detail: Vec<_> = blocking.iter().map(|chain| chain.what.as_str()).collect();
    let fix: Vec<_> = blocking.iter().map(|chain| chain.fix.as_str()).collect();
    Check::failed(
        NAME,
        format!(
            "guests cannot reach the outside: {} drops forwarded packets",
            detail.join(", ")
        ),
        fix.join("; "),
    )
}

/// A foreign chain that drops what guests send.
#[derive(Debug, PartialEq, Eq)]
struct Blocking {
    what: String,
    fix: String,
}

/// Base chains at the forward hook whose policy is drop, in tables that have no
/// rule about our links.
fn dropping_forward_chains(ruleset: &Value) -> Vec<Blocking> {
    let objects = || ruleset["nftables"].as_array().into_iter().flatten();
    let table_of = |object: &Value| {
        Some((
            object["family"].as_str()?.to_owned(),
            object["table"].as_str()?.to_owned(),
        ))
    };
    let knows_us = |table: &(String, String)| {
        objects().map(|object| &object["rule"]).any(|rule| {
            table_of(rule).as_ref() == Some(table)
                && rule["expr"]
                    .to_string()
                    .contains(&format!("\"{VETH_PREFIX}"))
        })
    };
    let has_chain = |table: &(String, String), name: &str| {
        objects()
            .map(|object| &object["chain"])
            .any(|chain| table_of(chain).as_ref() == Some(table) && chain["name"] == name)
    };
    objects()
        .map(|object| &object["chain"])
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop")
        .filter_map(|chain| Some((table_of(chain)?, chain["name"].as_str()?)))
        .filter(|((family, table), _)| matches!(family.as_str(), "ip" | "inet") && table != TABLE)
        .filter(|(table, _)| !knows_us(table))
        .map(|(table, name)| {
            let iptables = table == ("ip".to_owned(), "filter".to_owned()) && name == "FORWARD";
            let fix = if iptables {
                let docker = has_chain(&table, "DOCKER-USER");
                iptables_fix("iptables", if docker { "DOCKER-USER" } else { "FORWARD" })
            } else {
                nft_fix(&table.0, &table.1, name)
            };
            Blocking {
                what: format!("chain {name} of table {} {}", table.0, table.1),
                fix,
            }
        })
        .collect()
}

fn iptables_fix(program: &str, chain: &str) -> String {
    format!(
        "{program} -I {chain} -i {VETH_PREFIX}+ -j ACCEPT; {program} -I {chain} -o {VETH_PREFIX}+ \
         -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )
}

fn nft_fix(family: &str, table: &str, chain: &str) -> String {
    format!(
        "nft insert rule {family} {table} {chain} iifname '{VETH_PREFIX}*' accept; nft insert \
         rule {family} {table} {chain} oifname '{VETH_PREFIX}*' ct state established,related accept"
    )
}

/// The old iptables keep their rules where nft does not see them.
fn legacy_forward_chain() -> Option<Blocking> {
    const PROGRAM: &str = "iptables-legacy";
    let tables = fs::read_to_string("/proc/net/ip_tables_names").ok()?;
    if !tables.lines().any(|table| table == "filter") {
        return None;
    }
    let output = Command::new(PROGRAM)
        .args(["-S", "FORWARD"])
        .output()
        .ok()?;
    let rules = String::from_utf8_lossy(&output.stdout);
    let drops = rules.lines().any(|line| line == "-P FORWARD DROP");
    (drops && !rules.contains(VETH_PREFIX)).then(|| Blocking {
        what: "the FORWARD chain of iptables-legacy".to_owned(),
        fix: iptables_fix(PROGRAM, "FORWARD"),
    })
}

fn explain(error: &Error) -> String {
    crate::error::chain(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(family: &str, table: &str, name: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": table, "name": name, "hook": "forward",
                         "type": "filter", "prio": 0, "policy": policy}})
    }

    #[test]
    fn docker_is_found_and_its_own_chain_is_where_the_exception_goes() {
        let ruleset = json!({"nftables": [
            {"metainfo": {}},
            chain("ip", "filter", "FORWARD", "drop"),
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}},
        ]});
        let found = dropping_forward_chains(&ruleset);
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .fix
                .starts_with("iptables -I DOCKER-USER -i hveth+ -j ACCEPT")
        );
    }

    #[test]
    fn accepting_chains_ipv6_and_our_own_table_are_no_obstacle() {
        let ruleset = json!({"nftables": [
            chain("ip", "filter", "FORWARD", "accept"),
            chain("ip6", "filter", "FORWARD", "drop"),
            chain("inet", TABLE, "forward", "drop"),
        ]});
        assert_eq!(dropping_forward_chains(&ruleset), []);
    }

    #[test]
    fn a_firewall_that_already_lets_our_links_through_is_no_obstacle() {
        let exception = json!({"rule": {"family": "inet", "table": "fw", "chain": "fwd", "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "hveth*"}},
            {"accept": null}]}});
        let foreign = chain("inet", "fw", "fwd", "drop");
        let blocked = json!({"nftables": [foreign]});
        assert!(
            dropping_forward_chains(&blocked)[0]
                .fix
                .contains("nft insert rule inet fw fwd")
        );
        assert_eq!(
            dropping_forward_chains(&json!({"nftables": [foreign, exception]})),
            []
        );
    }
}
