//! Links, addresses, routes and neighbours through rtnetlink, as blocking calls.
//!
//! A netlink socket belongs to the namespace in which it was opened and stays
//! there when its thread moves on. A job that works on both sides of a veth pair
//! opens one [`Rtnl`] before it enters the slot's namespace and one after.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{
    InfoData, InfoTun, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_core::Nla as _;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};

/// Marks our routes (`ip route show proto 72`), so that they are never taken for
/// somebody else's. Unassigned in `rt_protos`.
pub(crate) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(72);

/// Links about to be removed are put into this group (`ip link show group ...`).
const DOOMED_GROUP: u32 = 0x4845_5254;

/// A netlink connection into the namespace in which it was opened.
pub(crate) struct Rtnl {
    handle: Handle,
    // Dropped last: it drives the connection behind `handle`.
    runtime: Runtime,
}

/// A link, as far as this crate cares.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The uid that may open it, of a TAP that has one.
    pub(crate) owner: Option<u32>,
}

/// What one end of a new veth pair looks like.
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
}

impl Rtnl {
    /// Connects in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self> {
        let action = "open a netlink connection";
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(Error::io(action))?;
        let handle = {
            let _context = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::io(action))?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { handle, runtime })
    }

    fn run(
        &self,
        action: impl Into<String>,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<()> {
        self.runtime
            .block_on(request)
            .map_err(|source| Error::Netlink {
                action: action.into(),
                source,
            })
    }

    /// Makes a veth pair: `here` in this namespace, `peer` directly in the
    /// namespace `there` (a later move would cost a grace period). Both down.
    pub(crate) fn add_veth(
        &self,
        here: &VethEnd<'_>,
        peer: &VethEnd<'_>,
        there: BorrowedFd<'_>,
    ) -> Result<()> {
        let peer_message = LinkUnspec::new_with_name(peer.name)
            .address(peer.mac.to_vec())
            .setns_by_fd(there.as_raw_fd())
            .build();
        let message = LinkVeth::new(here.name, peer.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_message)))
            .address(here.mac.to_vec())
            .build();
        self.run(
            format!("create link {}", here.name),
            self.handle.link().add(message).execute(),
        )
    }

    /// The link called `name`, if there is one.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>> {
        let found = self.runtime.block_on(
            self.handle
                .link()
                .get()
                .match_name(name.to_owned())
                .execute()
                .try_next(),
        );
        match found {
            Ok(message) => Ok(message.as_ref().and_then(link_of)),
            Err(rtnetlink::Error::NetlinkError(error)) if is(&error, libc::ENODEV) => Ok(None),
            Err(source) => Err(Error::Netlink {
                action: format!("find link {name}"),
                source,
            }),
        }
    }

    /// The index of link `name`, which must exist.
    pub(crate) fn link_index(&self, name: &str) -> Result<u32> {
        self.link(name)?
            .map(|link| link.index)
            .ok_or_else(|| Error::Io {
                action: format!("find link {name}"),
                source: std::io::Error::from_raw_os_error(libc::ENODEV),
            })
    }

    /// All links of this namespace.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> = self
            .runtime
            .block_on(self.handle.link().get().execute().try_collect())
            .map_err(|source| Error::Netlink {
                action: "list links".to_owned(),
                source,
            })?;
        Ok(messages.iter().filter_map(link_of).collect())
    }

    /// Brings a link up, and gives it `mac` when there is one.
    pub(crate) fn set_up(&self, link: u32, mac: Option<[u8; 6]>) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(link).up();
        if let Some(mac) = mac {
            message = message.address(mac.to_vec());
        }
        self.run(
            format!("bring link {link} up"),
            self.handle.link().set(message.build()).execute(),
        )
    }

    /// Removes links, all in one request: each request that removes a link waits for
    /// the kernel's grace periods, once. Links that are gone already are no error.
    pub(crate) fn remove_links(&self, links: &[u32]) -> Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        for link in links {
            let grouped = LinkUnspec::new_with_index(*link)
                .link_group(DOOMED_GROUP)
                .build();
            tolerate(
                self.runtime
                    .block_on(self.handle.link().set(grouped).execute()),
                libc::ENODEV,
            )
            .map_err(netlink(format!("group link {link}")))?;
        }
        // Without index and name, the group says what to remove.
        let mut group = LinkMessage::default();
        group.attributes.push(LinkAttribute::Group(DOOMED_GROUP));
        let removal = self.handle.link().del_with_message(group).execute();
        tolerate(self.runtime.block_on(removal), libc::ENODEV)
            .map_err(netlink("remove links".to_owned()))
    }

    /// Gives a link an address.
    pub(crate) fn add_address(&self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        self.run(
            format!("add address {address}/{prefix}"),
            self.handle
                .address()
                .add(link, IpAddr::V4(address), prefix)
                .execute(),
        )
    }

    /// Gives a link an address of its own, unless it has it.
    pub(crate) fn ensure_address(&self, link: u32, address: Ipv4Addr) -> Result<()> {
        let addition = self
            .handle
            .address()
            .add(link, IpAddr::V4(address), 32)
            .execute();
        tolerate(self.runtime.block_on(addition), libc::EEXIST)
            .map_err(netlink(format!("add address {address}")))
    }

    /// Takes [`Rtnl::ensure_address`] back. No such address is success.
    pub(crate) fn remove_address(&self, link: u32, address: Ipv4Addr) -> Result<()> {
        let mut message = netlink_packet_route::address::AddressMessage::default();
        message.header.family = netlink_packet_route::AddressFamily::Inet;
        message.header.index = link;
        message.header.prefix_len = 32;
        message.attributes = vec![
            AddressAttribute::Address(IpAddr::V4(address)),
            AddressAttribute::Local(IpAddr::V4(address)),
        ];
        let removal = self.handle.address().del(message).execute();
        tolerate(self.runtime.block_on(removal), libc::EADDRNOTAVAIL)
            .map_err(netlink(format!("remove address {address}")))
    }

    /// Adds a neighbour that never expires and needs no ARP. Permanent entries do
    /// not count against the kernel's (global) neighbour table limit.
    pub(crate) fn add_neighbour(&self, link: u32, address: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
        self.run(
            format!("add neighbour {address}"),
            self.handle
                .neighbours()
                .add(link, IpAddr::V4(address))
                .link_layer_address(&mac)
                .replace()
                .execute(),
        )
    }

    /// Routes `network` through `gateway` on `link`.
    pub(crate) fn add_route(&self, network: Ipv4Net, gateway: Ipv4Addr, link: u32) -> Result<()> {
        let route = ours(network)
            .gateway(gateway)
            .output_interface(link)
            .build();
        self.run(
            format!("add route to {network}"),
            self.handle.route().add(route).replace().execute(),
        )
    }

    /// Makes `network` unreachable except where a longer prefix says otherwise.
    pub(crate) fn add_unreachable(&self, network: Ipv4Net) -> Result<()> {
        self.run(
            format!("mark {network} unreachable"),
            self.handle
                .route()
                .add(unreachable(network))
                .replace()
                .execute(),
        )
    }

    /// Takes [`Rtnl::add_unreachable`] back. No such route is success.
    pub(crate) fn remove_unreachable(&self, network: Ipv4Net) -> Result<()> {
        let removal = self.handle.route().del(unreachable(network)).execute();
        tolerate(self.runtime.block_on(removal), libc::ESRCH)
            .map_err(netlink(format!("remove the unreachable route {network}")))
    }

    /// All IPv4 routes of all tables.
    pub(crate) fn routes(&self) -> Result<Vec<RouteMessage>> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        self.runtime
            .block_on(self.handle.route().get(query).execute().try_collect())
            .map_err(|source| Error::Netlink {
                action: "list routes".to_owned(),
                source,
            })
    }

    /// All IPv4 addresses with the index of the link they are on.
    pub(crate) fn addresses(&self) -> Result<Vec<(u32, Ipv4Net)>> {
        let messages: Vec<_> = self
            .runtime
            .block_on(self.handle.address().get().execute().try_collect())
            .map_err(|source| Error::Netlink {
                action: "list addresses".to_owned(),
                source,
            })?;
        Ok(messages
            .into_iter()
            .filter_map(|message: netlink_packet_route::address::AddressMessage| {
                let address = message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
                        _ => None,
                    })?;
                let network = Ipv4Net::new(address, message.header.prefix_len).ok()?;
                Some((message.header.index, network))
            })
            .collect())
    }
}

/// The destination of a route; the default route's is `0.0.0.0/0`.
pub(crate) fn destination(route: &RouteMessage) -> Option<Ipv4Net> {
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
            _ => None,
        })
        .unwrap_or(Ipv4Addr::UNSPECIFIED);
    Ipv4Net::new(address, route.header.destination_prefix_length).ok()
}

/// The index of the link that a route leaves by.
pub(crate) fn output_link(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

fn ours(network: Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.network(), network.prefix_len())
        .protocol(ROUTE_PROTOCOL)
        .scope(RouteScope::Universe)
}

fn unreachable(network: Ipv4Net) -> RouteMessage {
    ours(network).kind(RouteType::Unreachable).build()
}

fn link_of(message: &LinkMessage) -> Option<Link> {
    let name = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })?;
    Some(Link {
        index: message.header.index,
        name,
        owner: owner_of(message),
    })
}

/// `IFLA_TUN_OWNER` (`linux/if_link.h`) of a TAP.
fn owner_of(message: &LinkMessage) -> Option<u32> {
    const OWNER: u16 = 1;
    let attributes = message.attributes.iter();
    let infos = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let tun = infos.flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(tun)) => Some(tun),
        _ => None,
    })?;
    tun.iter().find_map(|attribute| match attribute {
        InfoTun::Other(nla) if nla.kind() == OWNER && nla.value_len() == 4 => {
            let mut value = [0; 4];
            nla.emit_value(&mut value);
            Some(u32::from_ne_bytes(value))
        }
        _ => None,
    })
}

/// Takes the error `errno` for success.
fn tolerate(result: Result<(), rtnetlink::Error>, errno: i32) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if is(&error, errno) => Ok(()),
        other => other,
    }
}

fn netlink(action: String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Netlink { action, source }
}

fn is(error: &rtnetlink::packet_core::ErrorMessage, errno: i32) -> bool {
    error.raw_code() == -errno
}
