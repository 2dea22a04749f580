//! What all slots share on the host: the address ranges, the nftables table, IP
//! forwarding, and the removal of what an earlier run left.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;

use ipnet::Ipv4Net;
use netlink_packet_route::route::RouteType;

use crate::address::{self, NETNS_PREFIX, Plan, VETH_PREFIX};
use crate::config::{NetworkConfig, RangePair};
use crate::error::{Error, Result};
use crate::owners::Owners;
use crate::policy::{Adoption, Policy};
use crate::rtnl::{self, Link, ROUTE_PROTOCOL, Rtnl};
use crate::ruleset::HostRules;
use crate::services::{NODE_ADDRESS, ServicePorts};
use crate::state::State;
use crate::{capacity, netns, nft, ruleset, slot, sysctl};

/// Abstract socket names belong to a network namespace and vanish with their
/// process: exactly the life of a claim on a host's network.
const LOCK_NAME: &str = "hearth-network";
const LOOPBACK: &str = "lo";
const IP_FORWARD: &str = "ipv4/ip_forward";

/// The claim on this host's sandbox network.
#[derive(Debug)]
pub(crate) struct Lock {
    _listener: UnixListener,
}

impl Lock {
    pub(crate) fn take() -> Result<Self> {
        let action = "claim the sandbox network";
        let name = SocketAddr::from_abstract_name(LOCK_NAME).map_err(Error::io(action))?;
        match UnixListener::bind_addr(&name) {
            Ok(listener) => Ok(Self {
                _listener: listener,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Error::InUse),
            Err(error) => Err(Error::io(action)(error)),
        }
    }
}

/// The host as [`set_up`] left it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) plan: Plan,
    pub(crate) nameservers: Vec<Ipv4Addr>,
    /// Slots that live on from an earlier run.
    pub(crate) adopted: Vec<(u32, Policy)>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) _lock: Lock,
}

/// Prepares the host and removes leftovers. The rules are in place before
/// forwarding is on, and before anything slow.
pub(crate) fn set_up(config: &NetworkConfig, adopt: Vec<Adoption>) -> Result<Host> {
    config.validate()?;
    let lock = Lock::take()?;
    let rtnl = Rtnl::open()?;
    let remembered = State::load(&config.state_dir)?;
    let nameservers = config.guest_nameservers();
    let plan = choose_plan(
        config,
        &rtnl,
        remembered.as_ref(),
        !adopt.is_empty(),
        &nameservers,
    )?;
    remember(config, &plan, remembered.as_ref())?;

    let (mut adopted, mut uids) = (Vec::new(), Vec::new());
    for Adoption { index, policy } in adopt {
        if index >= config.max_slots {
            tracing::warn!(index, "a slot past the configured limit is not adopted");
            continue;
        }
        match slot::verify(&rtnl, index, &plan) {
            Ok(uid) => {
                adopted.push((index, policy));
                uids.push((index, uid));
            }
            Err(error) => tracing::warn!(index, %error, "a network slot is not adopted"),
        }
    }
    let owners = Owners::load(&config.tap_owner, &uids)?;
    let rules = HostRules {
        plan: &plan,
        nameservers: &nameservers,
        services: config.services,
        connections_max: capacity::prepare(config),
        bandwidth_max: config.bandwidth_max,
        policies: &adopted,
        deny: &config.deny,
        smtp: config.smtp,
    };
    nft::apply_text("load the host's rules", &ruleset::host(&rules))?;
    if config.services.is_some() {
        rtnl.ensure_address(rtnl.link_index(LOOPBACK)?, NODE_ADDRESS)?;
    }
    // An address without a slot leads nowhere, least of all to the default route.
    for range in [plan.slot_range(), plan.link_range()] {
        rtnl.add_unreachable(range)?;
    }
    enable_forwarding(config)?;
    let keep: BTreeSet<u32> = adopted.iter().map(|(index, _)| *index).collect();
    remove_leftovers(&rtnl, &keep)?;
    Ok(Host {
        plan,
        nameservers,
        adopted,
        owners: Arc::new(owners),
        _lock: lock,
    })
}

/// Undoes [`set_up`] when no slot is left.
pub(crate) fn tear_down(config: &NetworkConfig, plan: &Plan) -> Result<()> {
    nft::apply_text("remove the host's rules", &ruleset::remove_host())?;
    let rtnl = Rtnl::open()?;
    for range in [plan.slot_range(), plan.link_range()] {
        rtnl.remove_unreachable(range)?;
    }
    if config.services.is_some() {
        rtnl.remove_address(rtnl.link_index(LOOPBACK)?, NODE_ADDRESS)?;
    }
    if let Some(mut state) = State::load(&config.state_dir)?
        && state.enabled_ip_forward
    {
        sysctl::write(IP_FORWARD, "0")?;
        state.enabled_ip_forward = false;
        state.save(&config.state_dir)?;
        tracing::info!("turned net.ipv4.ip_forward off again");
    }
    Ok(())
}

/// Applies policy changes, in order, as one transaction.
pub(crate) fn apply_policies(
    plan: &Plan,
    services: Option<ServicePorts>,
    changes: &[(u32, Policy)],
) -> Result<()> {
    let text: String = changes
        .iter()
        .map(|(index, policy)| {
            ruleset::policy_change(*index, plan.host_address(*index), policy, services)
        })
        .collect();
    nft::apply_text("change a slot's policy", &text)
}

/// What of the host's network overlaps `range`, in words. Our own links and routes
/// do not count.
pub(crate) fn overlaps(
    rtnl: &Rtnl,
    range: Ipv4Net,
    nameservers: &[Ipv4Addr],
) -> Result<Vec<String>> {
    let links = rtnl.links()?;
    let name_of = |index: u32| {
        links
            .iter()
            .find(|link| link.index == index)
            .map_or("?", |link| link.name.as_str())
    };
    let is_ours = |index: u32| address::index_of(name_of(index), VETH_PREFIX).is_some();
    let mut found = BTreeSet::new();
    for (link, network) in rtnl.addresses()? {
        if !is_ours(link) && address::overlap(network.trunc(), range) {
            found.insert(format!("address {network} on {}", name_of(link)));
        }
    }
    for route in rtnl.routes()? {
        let Some(network) = rtnl::destination(&route) else {
            continue;
        };
        let link = rtnl::output_link(&route);
        let ours = route.header.protocol == ROUTE_PROTOCOL || link.is_some_and(is_ours);
        // Addresses of this host were looked at above; a default route is meant to
        // be overridden by longer prefixes.
        let other_kind = matches!(route.header.kind, RouteType::Local | RouteType::Broadcast);
        if ours || other_kind || network.prefix_len() == 0 || !address::overlap(network, range) {
            continue;
        }
        let through = link.map_or(String::new(), |link| format!(" on {}", name_of(link)));
        found.insert(format!("route {network}{through}"));
    }
    for server in nameservers.iter().filter(|server| range.contains(*server)) {
        found.insert(format!("name server {server}"));
    }
    Ok(found.into_iter().collect())
}

fn choose_plan(
    config: &NetworkConfig,
    rtnl: &Rtnl,
    remembered: Option<&State>,
    must_keep: bool,
    nameservers: &[Ipv4Addr],
) -> Result<Plan> {
    let candidates = config.plans()?;
    let kept = remembered
        .filter(|state| must_keep || state.preferred == preferred(config))
        .and_then(|state| {
            let RangePair {
                slot_range,
                link_range,
            } = state.ranges;
            Plan::new(slot_range, link_range, config.max_slots).ok()
        });
    if let (Some(plan), true) = (kept, must_keep) {
        // Running guests have these addresses, whatever the host did since.
        return Ok(plan);
    }
    let mut conflicts = Vec::new();
    for plan in kept.into_iter().chain(candidates) {
        let mut found = overlaps(rtnl, plan.slot_range(), nameservers)?;
        found.extend(overlaps(rtnl, plan.link_range(), nameservers)?);
        if found.is_empty() {
            return Ok(plan);
        }
        let (slots, links) = (plan.slot_range(), plan.link_range());
        tracing::warn!(%slots, %links, conflicts = ?found, "address ranges are in use");
        conflicts.push(format!("{slots} with {links}: {}", found.join(", ")));
    }
    Err(Error::NoFreeRange { conflicts })
}

fn preferred(config: &NetworkConfig) -> RangePair {
    RangePair {
        slot_range: config.slot_range,
        link_range: config.link_range,
    }
}

fn remember(config: &NetworkConfig, plan: &Plan, before: Option<&State>) -> Result<()> {
    let ranges = RangePair {
        slot_range: plan.slot_range(),
        link_range: plan.link_range(),
    };
    if let Some(before) = before.filter(|before| before.ranges != ranges) {
        let rtnl = Rtnl::open()?;
        for range in [before.ranges.slot_range, before.ranges.link_range] {
            rtnl.remove_unreachable(range)?;
        }
    }
    let enabled = before.is_some_and(|state| state.enabled_ip_forward);
    let state = State::new(ranges, preferred(config), enabled).beside(before);
    if before == Some(&state) {
        Ok(())
    } else {
        state.save(&config.state_dir)
    }
}

fn enable_forwarding(config: &NetworkConfig) -> Result<()> {
    if sysctl::read(IP_FORWARD)? == "1" {
        return Ok(());
    }
    // Remembered first: a crash in between must not make us forget.
    if let Some(mut state) = State::load(&config.state_dir)? {
        state.enabled_ip_forward = true;
        state.save(&config.state_dir)?;
    }
    sysctl::write(IP_FORWARD, "1")?;
    tracing::info!("turned net.ipv4.ip_forward on; a clean shutdown turns it off");
    Ok(())
}

/// Removes every slot of an earlier run that is not in `keep`.
fn remove_leftovers(rtnl: &Rtnl, keep: &BTreeSet<u32>) -> Result<()> {
    let links: Vec<Link> = rtnl.links()?;
    let of_links = links
        .iter()
        .filter_map(|link| address::index_of(&link.name, VETH_PREFIX));
    let names = netns::names()?;
    let of_names = names
        .iter()
        .filter_map(|name| address::index_of(name, NETNS_PREFIX));
    let leftovers: BTreeSet<u32> = of_links
        .chain(of_names)
        .filter(|index| !keep.contains(index))
        .collect();
    slot::remove_all(rtnl, &leftovers)?;
    if !leftovers.is_empty() {
        tracing::info!(
            count = leftovers.len(),
            "removed network slots of an earlier run"
        );
    }
    Ok(())
}
