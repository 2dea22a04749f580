//! Where the node serves guests: fixed addresses that guests know, and the ports
//! on which the node listens behind them.
//!
//! The guests' addresses are from TEST-NET-1 (RFC 5737). They mean something in the
//! packets of guests alone: the host may have neighbours, or be known itself, by the
//! same ones. A guest's packets to a service are translated to an address of the
//! host's loopback and the service's own port, so no well-known port of the host is
//! taken.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Name service, events and the proxy. The address is part of the wire contract.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The port of [`SERVICE_ADDRESS`] behind which volumes are.
pub const VOLUMES_PORT: u16 = 2049;
/// The edge, as guests see it: the answer to names of sandboxes.
pub const EDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Where the services listen. Link-local, of which machines use the upper half if
/// any of it; on loopback, and nobody but guests gets there.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 72, 1);

/// Marks packets that the node sends on behalf of a guest (`SO_MARK`). The kernel
/// keeps those from private and local addresses, whatever a name resolved to.
pub const ON_BEHALF_MARK: u32 = 0x4845_4752;

/// Ports on [`NODE_ADDRESS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePorts {
    /// UDP and TCP, behind port 53.
    pub dns: u16,
    /// HTTP, behind port 80.
    pub events: u16,
    /// Diverted TCP connections.
    pub proxy: u16,
    /// Connections to [`EDGE_ADDRESS`] on any port.
    pub edge: u16,
    /// Volumes (NFS), behind [`VOLUMES_PORT`].
    pub volumes: u16,
}
