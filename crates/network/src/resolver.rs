//! Name servers: the guests' is the node, which asks the host's own.
//!
//! A template that was made elsewhere may name others; those of this host may be
//! asked directly, even where they are private. The host's `resolv.conf` often names a stub on loopback, which a guest cannot
//! reach; then the files in which the stub's manager keeps the real servers are
//! asked. Guests have no IPv6, so IPv6 servers are of no use to them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use crate::services::SERVICE_ADDRESS;

/// Files to look at, in order.
const SOURCES: [&str; 3] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
];

/// Used when the host only has servers on loopback.
pub(crate) const PUBLIC_SERVERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)];

/// A resolver reads no more than this many (`MAXNS` in `resolv.h`).
const MOST_SERVERS: usize = 3;

/// The name servers to write into a guest's `resolv.conf`: the node's forwarder,
/// whose address is the same on every node.
#[must_use]
pub fn guest_nameservers() -> Vec<IpAddr> {
    vec![SERVICE_ADDRESS.into()]
}

/// The host's own servers, or public ones when the host has none that a guest could
/// reach. Never empty.
pub(crate) fn reachable_nameservers() -> Vec<IpAddr> {
    host_nameservers().unwrap_or_else(|| PUBLIC_SERVERS.map(IpAddr::from).to_vec())
}

/// The host's servers that a guest can reach, if there are any.
pub(crate) fn host_nameservers() -> Option<Vec<IpAddr>> {
    SOURCES
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| reachable_servers(&text))
        .find(|servers| !servers.is_empty())
}

fn reachable_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(Ok(server)) = words.next().map(str::parse::<Ipv4Addr>) else {
            continue;
        };
        let usable = !server.is_loopback() && !server.is_unspecified() && !server.is_multicast();
        if usable && !servers.contains(&IpAddr::V4(server)) {
            servers.push(IpAddr::V4(server));
        }
    }
    servers.truncate(MOST_SERVERS);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_comments_and_ipv6_are_skipped() {
        let text = "# made by hand\nnameserver 127.0.0.53\nsearch example\n\
                    nameserver fe80::1%eth0\n  nameserver\t192.0.2.53 # office\n\
                    nameserver 192.0.2.53\nnameserver 0.0.0.0\nnameserver\n";
        assert_eq!(reachable_servers(text), [IpAddr::from([192, 0, 2, 53])]);
    }

    #[test]
    fn no_more_than_a_resolver_reads() {
        let text: String = (1..9)
            .map(|n| format!("nameserver 192.0.2.{n}\n"))
            .collect();
        assert_eq!(reachable_servers(&text).len(), MOST_SERVERS);
    }

    #[test]
    fn a_guest_always_gets_a_server() {
        assert!(!guest_nameservers().is_empty());
        assert!(!reachable_nameservers().is_empty());
    }
}
