//! One slot: how it is made, checked, cleaned and removed.
//!
//! All functions block, and are called from threads in the host's namespace; what
//! must happen inside the slot's namespace runs on a thread of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::address::{
    self, GATEWAY_ADDRESS, GATEWAY_MAC, GUEST_ADDRESS, GUEST_MAC, GUEST_PREFIX, Plan, TAP_NAME,
    UPLINK_NAME, VETH_PREFIX, netns_name, veth_name,
};
use crate::error::{Error, Result};
use crate::netns;
use crate::rtnl::{Rtnl, VethEnd};
use crate::{conntrack, nft, ruleset, sysctl, tap};

const LINK_PREFIX: u8 = 31;

/// A held network slot. Not `Clone`: whoever has it, holds it. Dropping it does not
/// release it (a daemon that ends must leave running sandboxes alone); give it back
/// with [`crate::SlotPool::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct Slot {
    /// The slot's number, by which it can be adopted after a restart.
    pub index: u32,
    /// The network namespace that the VM process must run in.
    pub netns_path: PathBuf,
    /// The TAP inside it.
    pub tap: String,
    /// Where the host reaches the guest, on every port.
    pub host_address: Ipv4Addr,
    /// The MAC that the guest's interface must have.
    pub mac: [u8; 6],
    /// The uid that may open the TAP without privileges; its VM runs as it.
    pub uid: u32,
}

impl Slot {
    pub(crate) fn new(index: u32, plan: &Plan, uid: u32) -> Self {
        Self {
            index,
            netns_path: netns::path_of(&netns_name(index)),
            tap: TAP_NAME.to_owned(),
            host_address: plan.host_address(index),
            mac: GUEST_MAC,
            uid,
        }
    }
}

/// Makes slot `index` whole for a holder with this uid, or leaves nothing of it.
pub(crate) fn create(index: u32, plan: &Plan, uid: u32) -> Result<()> {
    let host = Rtnl::open()?;
    build(&host, index, plan, uid).inspect_err(|_| {
        // The error that matters is the first; what cannot be undone now is
        // found as a leftover at the next start.
        if let Err(error) = remove(&host, index) {
            tracing::warn!(index, %error, "cannot undo a half-made network slot");
        }
    })
}

fn build(host: &Rtnl, index: u32, plan: &Plan, uid: u32) -> Result<()> {
    let name = netns_name(index);
    let path = netns::path_of(&name);
    let host_address = plan.host_address(index);
    netns::create(&name, move || prepare_namespace(host_address, uid))?;

    let veth = veth_name(index);
    let (host_mac, slot_mac) = (address::veth_host_mac(index), address::veth_slot_mac(index));
    let there = File::open(&path).map_err(Error::io(format!("open {}", path.display())))?;
    host.add_veth(
        &VethEnd {
            name: &veth,
            mac: host_mac,
        },
        &VethEnd {
            name: UPLINK_NAME,
            mac: slot_mac,
        },
        there.as_fd(),
    )?;
    let (link_host, link_slot) = (plan.link_host(index), plan.link_slot(index));
    netns::run_in(&path, move || {
        connect_uplink(link_slot, link_host, host_mac)
    })??;

    sysctl::write_if_present(&format!("ipv6/conf/{veth}/disable_ipv6"), "1")?;
    sysctl::write_if_present(&format!("ipv6/conf/{veth}/accept_ra"), "0")?;
    sysctl::write(&format!("ipv4/conf/{veth}/rp_filter"), "1")?;
    sysctl::write(&format!("ipv4/conf/{veth}/forwarding"), "1")?;
    let link = host.link_index(&veth)?;
    host.add_address(link, link_host, LINK_PREFIX)?;
    host.set_up(link, None)?;
    host.add_neighbour(link, link_slot, slot_mac)?;
    host.add_route(Ipv4Net::from(host_address), link_slot, link)
}

/// Inside a new namespace: settings, TAP and rules.
fn prepare_namespace(host_address: Ipv4Addr, uid: u32) -> Result<()> {
    // Before any link exists, so that none ever gets an IPv6 address.
    for scope in ["all", "default"] {
        sysctl::write_if_present(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
        sysctl::write_if_present(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
    }
    sysctl::write("ipv4/ip_forward", "1")?;
    tap::create_persistent(TAP_NAME, uid)?;
    // The rules come before the links are up: no frame passes without them.
    nft::apply("load a slot's rules", &ruleset::slot(host_address))?;

    let inside = Rtnl::open()?;
    let tap_link = inside.link_index(TAP_NAME)?;
    sysctl::write(&format!("ipv4/conf/{TAP_NAME}/rp_filter"), "1")?;
    inside.add_address(tap_link, GATEWAY_ADDRESS, GUEST_PREFIX)?;
    inside.set_up(tap_link, Some(GATEWAY_MAC))?;
    inside.add_neighbour(tap_link, GUEST_ADDRESS, GUEST_MAC)
}

/// Inside the namespace: the way to the host, once the veth pair is there.
fn connect_uplink(own: Ipv4Addr, gateway: Ipv4Addr, gateway_mac: [u8; 6]) -> Result<()> {
    let inside = Rtnl::open()?;
    let uplink = inside.link_index(UPLINK_NAME)?;
    inside.add_address(uplink, own, LINK_PREFIX)?;
    inside.set_up(uplink, None)?;
    inside.add_neighbour(uplink, gateway, gateway_mac)?;
    let everything = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
    inside.add_route(everything, gateway, uplink)
}

/// Checks that all parts of a slot that a running sandbox uses are there, and says who
/// owns its TAP. Touches nothing. `host` is a connection in the host's namespace.
pub(crate) fn verify(host: &Rtnl, index: u32, plan: &Plan) -> Result<u32> {
    let missing = |reason: &str| Error::NotAdoptable {
        index,
        reason: reason.to_owned(),
    };
    let path = netns::path_of(&netns_name(index));
    if !netns::is_namespace(&path) {
        return Err(missing("its namespace is gone"));
    }
    let link = host
        .link(&veth_name(index))?
        .ok_or_else(|| missing("its veth link is gone"))?;
    let wanted = Ipv4Net::from(plan.host_address(index));
    let routed = host.routes()?.iter().any(|route| {
        crate::rtnl::destination(route) == Some(wanted)
            && crate::rtnl::output_link(route) == Some(link.index)
    });
    if !routed {
        return Err(missing("its address is not routed to it"));
    }
    let tap = netns::run_in(&path, || Rtnl::open()?.link(TAP_NAME))??;
    let tap = tap.ok_or_else(|| missing("its TAP is gone"))?;
    tap.owner.ok_or_else(|| missing("its TAP has no owner"))
}

/// Makes a released slot as good as new for a holder with this uid: nobody attached,
/// nothing tracked.
pub(crate) fn clean(index: u32, plan: &Plan, uid: u32) -> Result<()> {
    conntrack::forget(plan.host_address(index))?;
    netns::run_in(&netns::path_of(&netns_name(index)), move || {
        if !tap::hand_over(TAP_NAME, uid)? {
            return Err(Error::TapBusy { index });
        }
        conntrack::flush()
    })?
}

/// Removes every part of slot `index` that there is.
pub(crate) fn remove(host: &Rtnl, index: u32) -> Result<()> {
    remove_all(host, &BTreeSet::from([index]))
}

/// Removes every part of these slots that there is. Does as much as it can; the
/// error is the first.
pub(crate) fn remove_all(host: &Rtnl, indices: &BTreeSet<u32>) -> Result<()> {
    // The links first: that cuts off a VM that should be gone and is not. Their
    // addresses, routes and neighbours go with them.
    let links: Vec<u32> = host
        .links()?
        .into_iter()
        .filter(|link| {
            address::index_of(&link.name, VETH_PREFIX).is_some_and(|index| indices.contains(&index))
        })
        .map(|link| link.index)
        .collect();
    let mut outcome = host.remove_links(&links);
    for index in indices {
        outcome = outcome.and(netns::remove(&netns_name(*index)));
    }
    outcome
}
