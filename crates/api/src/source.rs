//! Where a request comes from.

use hearth_ids::SandboxId;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who sent a request: an extension that whoever serves the router puts into each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A client at this address.
    Address(IpAddr),
    /// A sandbox of this node, through the edge.
    Sandbox(SandboxId),
}

/// A request that shows a session of the web interface, which stands for the key that it
/// carries: an extension that whoever knows the session puts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BySession;

impl Source {
    pub(crate) fn of(extensions: &http::Extensions) -> Self {
        extensions
            .get()
            .cloned()
            .unwrap_or(Self::Address(Ipv4Addr::UNSPECIFIED.into()))
    }

    /// The client's address; sandboxes have none that is theirs alone.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Sandbox(_) => None,
        }
    }

    /// Whom to count it to: with IPv6 a customer has a whole network of 64 bits.
    pub(crate) fn client(&self) -> Self {
        let Self::Address(address) = self else {
            return self.clone();
        };
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
            }
            address => address,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.to_canonical().fmt(formatter),
            Self::Sandbox(id) => write!(formatter, "sandbox:{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Source {
        Source::Address(text.parse().expect("an address"))
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_an_address_of_ipv4_is() {
        let client = |text: &str| address(text).client();
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:9"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:198.51.100.7"), client("198.51.100.7"));
        assert_ne!(client("198.51.100.7"), client("198.51.100.8"));
        assert_eq!(client("::1"), address("::1"));
        assert_eq!(address("::ffff:198.51.100.7").to_string(), "198.51.100.7");
        let id = SandboxId::random();
        assert_eq!(
            Source::Sandbox(id.clone()).to_string(),
            format!("sandbox:{id}")
        );
    }
}
