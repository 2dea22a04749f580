//! Where requests for tenants may lead. A tenant names a registry, the registry names
//! token services and places to go on to, and the daemon that asks stands in the
//! host's own network: so each connection is resolved, checked and pinned here.
//!
//! Public addresses are open to all, over TLS. What is private, loopback, link-local
//! or a cloud's metadata, and what is plain HTTP, is reached only where the operator
//! listed it, and only on behalf of a registry that is listed itself: no other
//! registry leads there.

use crate::Registries;
use http::Uri;
use hyper_util::rt::TokioIo;
use ipnet::{IpNet, Ipv6Net};
use std::{
    collections::HashSet,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What the operator lists.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// `host[:port]` that may have any address.
    names: HashSet<String>,
    /// `host[:port]` that are spoken to without TLS.
    plain: HashSet<String>,
    ranges: Vec<IpNet>,
}

impl Listed {
    pub(crate) fn of(registries: &Registries) -> Self {
        let mut this = Self::default();
        for host in &registries.insecure {
            this.names.insert(host.clone());
            this.plain.insert(host.clone());
        }
        for mirror in &registries.mirrors {
            let host = mirror.location.split('/').next().unwrap_or_default();
            this.names.insert(host.to_owned());
        }
        for text in &registries.private {
            match text.parse::<IpNet>() {
                Ok(range) => this.ranges.push(range),
                Err(_) => drop(this.names.insert(text.clone())),
            }
        }
        let endpoint = registries.aws_endpoint.as_deref().unwrap_or_default();
        if let Some(authority) = endpoint.parse::<Uri>().ok().and_then(|uri| {
            let plain = uri.scheme_str() == Some("http");
            Some((plain, uri.authority()?.to_string()))
        }) {
            let (plain, authority) = authority;
            if plain {
                this.plain.insert(authority.clone());
            }
            this.names.insert(authority);
        }
        this
    }

    /// Whether a registry, as `host[:port]`, is listed by its name or its addresses.
    pub(crate) async fn has(&self, registry: &str) -> bool {
        if self.names.contains(registry) {
            return true;
        }
        if self.ranges.is_empty() {
            return false;
        }
        let Ok(uri) = format!("https://{registry}/").parse::<Uri>() else {
            return false;
        };
        let found = resolve(&uri).await.unwrap_or_default();
        !found.is_empty() && found.iter().all(|address| self.in_range(address.ip()))
    }

    fn in_range(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.ranges.iter().any(|range| range.contains(&address))
    }

    fn has_name(&self, uri: &Uri) -> bool {
        uri.authority()
            .is_some_and(|authority| self.names.contains(authority.as_str()))
    }
}

/// Connects to what a request's address names, if it may.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    listed: Arc<Listed>,
    /// Whether the request is for a registry that is listed itself.
    trusted: bool,
}

impl Dialer {
    pub(crate) fn new(listed: Arc<Listed>, trusted: bool) -> Self {
        Self { listed, trusted }
    }

    async fn dial(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let denied = |why: &str| {
            let why = format!("{authority} {why}");
            io::Error::new(io::ErrorKind::PermissionDenied, why)
        };
        let plain_too = self.trusted && self.listed.plain.contains(&authority);
        if uri.scheme_str() != Some("https") && !plain_too {
            return Err(denied(
                "is asked for without TLS, and is not in registries.insecure",
            ));
        }
        let any = self.trusted && self.listed.has_name(&uri);
        let mut last = denied("has no address");
        for address in resolve(&uri).await? {
            let listed = any || (self.trusted && self.listed.in_range(address.ip()));
            if !listed && !is_public(address.ip()) {
                // The same for every port, open or not.
                return Err(denied(
                    "is at a private or local address, and is not in registries.private",
                ));
            }
            // The very address that was looked at: a name may mean another next time.
            match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

async fn resolve(uri: &Uri) -> io::Result<Vec<SocketAddr>> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
        Some("http") => 80,
        _ => 443,
    });
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Whether an address is everybody's, and not this host's, its networks' or its
/// cloud's.
fn is_public(address: IpAddr) -> bool {
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
