//! What all slots share on the host: the address ranges, the nftables table, IP
//! forwarding, and the removal of what an earlier run left.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use ipnet::Ipv4Net;
use netlink_packet_route::route::RouteType;

use crate::address::{self, NETNS_PREFIX, Plan, VETH_PREFIX};
use crate::config::{NetworkConfig, RangePair};
use crate::error::{Error, Result};
use crate::rtnl::{self, Link, ROUTE_PROTOCOL, Rtnl};
use crate::ruleset::{HostRules, OFFLINE, TABLE};
use crate::state::State;
use crate::{netns, nft, ruleset, slot, sysctl};

/// Abstract socket names belong to a network namespace and vanish with their
/// process: exactly the life of a claim on a host's network.
const LOCK_NAME: &str = "hearth-network";
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
    pub(crate) adopted: Vec<Adopted>,
    pub(crate) _lock: Lock,
}

/// A slot that lives on from an earlier run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adopted {
    pub(crate) index: u32,
    /// Its guest may not open connections to the outside.
    pub(crate) offline: bool,
}

/// Prepares the host and removes leftovers. The rules are in place before
/// forwarding is on, and before anything slow.
pub(crate) fn set_up(config: &NetworkConfig, adopt: &[u32]) -> Result<Host> {
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

    let was_offline = offline_addresses();
    let mut adopted = Vec::new();
    for index in adopt.iter().copied().collect::<BTreeSet<_>>() {
        if index >= config.max_slots {
            tracing::warn!(index, "a slot past the configured limit is not adopted");
            continue;
        }
        match slot::verify(&rtnl, index, &plan) {
            Ok(()) => {
                let offline = was_offline.contains(&plan.host_address(index));
                adopted.push(Adopted { index, offline });
            }
            Err(error) => tracing::warn!(index, %error, "a network slot is not adopted"),
        }
    }
    let offline: Vec<_> = adopted
        .iter()
        .filter(|slot| slot.offline)
        .map(|slot| plan.host_address(slot.index))
        .collect();
    let rules = HostRules {
        plan: &plan,
        nameservers: &nameservers,
        offline: &offline,
    };
    nft::apply("load the host's rules", &ruleset::host(&rules))?;
    // An address without a slot leads nowhere, least of all to the default route.
    for range in [plan.slot_range(), plan.link_range()] {
        rtnl.add_unreachable(range)?;
    }
    enable_forwarding(config)?;
    let keep: BTreeSet<u32> = adopted.iter().map(|slot| slot.index).collect();
    remove_leftovers(&rtnl, &keep)?;
    Ok(Host {
        plan,
        nameservers,
        adopted,
        _lock: lock,
    })
}

/// Undoes [`set_up`] when no slot is left.
pub(crate) fn tear_down(config: &NetworkConfig, plan: &Plan) -> Result<()> {
    nft::apply("remove the host's rules", &ruleset::remove_host())?;
    let rtnl = Rtnl::open()?;
    for range in [plan.slot_range(), plan.link_range()] {
        rtnl.remove_unreachable(range)?;
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
pub(crate) fn apply_policy(changes: &[(Ipv4Addr, bool)]) -> Result<()> {
    nft::apply("change a slot's policy", &ruleset::offline_changes(changes))
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
    let state = State::new(ranges, preferred(config), enabled);
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

/// The addresses in the running table's offline set; none if there is no table.
fn offline_addresses() -> BTreeSet<Ipv4Addr> {
    let listing = match nft::list(
        "list slot policies",
        &["list", "set", "inet", TABLE, OFFLINE],
    ) {
        Ok(listing) => listing,
        Err(error) => {
            tracing::debug!(%error, "no slot policies to carry over");
            return BTreeSet::new();
        }
    };
    listing["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|object| object["set"]["elem"].as_array())
        .flatten()
        .filter_map(|element| element.as_str()?.parse().ok())
        .collect()
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
