//! Connections that the daemon makes for tenants. A tenant names where they lead, and
//! the daemon stands in the host's own network: so each is resolved, checked and pinned
//! to the very address that was checked. What may be reached beyond public addresses is
//! the caller's to say, by what its operator listed.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod roots;

pub use roots::{RootsError, trusted_roots};

use http::Uri;
use ipnet::Ipv6Net;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};
use tokio::net::TcpStream;

/// How long one address may take to answer.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The addresses of what a request names; the port is the scheme's unless it says one.
///
/// # Errors
/// When the name is not known, or nobody can be asked.
pub async fn resolve(uri: &Uri) -> io::Result<Vec<SocketAddr>> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
        Some("http") => 80,
        _ => 443,
    });
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Connects to the first of these addresses that answers. One that `may` refuses ends it,
/// whichever others there are: the same for every port, open or not.
///
/// # Errors
/// `PermissionDenied` with `why` for an address that may not be reached; else what the
/// last address failed with, or `NotFound` where there is none.
pub async fn connect(
    addresses: Vec<SocketAddr>,
    may: impl Fn(IpAddr) -> bool,
    why: &str,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses {
        if !may(address.ip()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        // The very address that was looked at: a name may mean another next time.
        match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Whether an address is everybody's and none of this host's own. What listens at those
/// answers the host itself as it need not answer others: no firewall is in between.
#[must_use]
pub fn is_foreign(address: IpAddr) -> bool {
    is_public(address) && !is_own(address)
}

/// Whether an address is one of this host's, at whichever interface: those alone can be bound
/// to. Where the host lets programs bind to any (`ip_nonlocal_bind`), its first address at
/// each interface is still known. An address that somebody else translates into this host's,
/// as clouds do, is not known here.
#[must_use]
pub fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    // Of networks for documentation, which nobody has.
    let (any, nobodys): (IpAddr, IpAddr) = match address {
        IpAddr::V4(_) => (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(198, 51, 100, 254).into(),
        ),
        IpAddr::V6(_) => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
        ),
    };
    let can_bind = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    if !can_bind(address) {
        return false;
    }
    if !can_bind(nobodys) {
        return true;
    }
    // What goes to an own address comes from there. Connecting such a socket only chooses a
    // way; nothing is sent. Port 9 is nobody's.
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip().to_canonical() == address)
}

/// Whether an address is everybody's, and not this host's, its networks' or its
/// cloud's.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !hearth_network::address::is_never_reachable(address),
        IpAddr::V6(address) => {
            // Global unicast, without what carries addresses of IPv4 (Teredo, 6to4),
            // and documentation.
            let within = |network: Ipv6Addr, prefix| {
                Ipv6Net::new(network, prefix).is_ok_and(|network| network.contains(&address))
            };
            within(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)
                && !within(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23)
                && !within(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32)
                && !within(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_knows_its_own_addresses() {
        for (address, own) in [
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("::ffff:127.0.0.1", true),
            ("203.0.113.7", false),
            ("2001:db8::7", false),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(is_own(address), own, "{address}");
        }
    }

    #[test]
    fn only_what_is_everybodys_is_public() {
        for (address, public) in [
            ("93.184.215.14", true),
            ("2606:4700::1111", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("168.63.129.16", false),
            ("100.100.100.200", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::7f00:1", false),
            ("2002:7f00:1::", false),
            ("2001:0:7f00:1::", false),
            ("ff02::1", false),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(is_public(address), public, "{address}");
        }
    }
}
