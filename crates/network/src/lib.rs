//! The sandbox network: a bounded pool of ready network slots.
//!
//! A *slot* is everything one sandbox needs to be on the network, and nothing
//! it can share with another sandbox:
//!
//! ```text
//!   host netns                       netns hearth-<i>
//!  ┌──────────────────────────┐     ┌─────────────────────────────────────┐
//!  │ route 10.11.0.<i+1>/32 ──┼─┐   │ DNAT 10.11.0.<i+1> → 169.254.0.21   │
//!  │ hveth<i> 10.12.x.y/31    ├─┴───┤ eth0 10.12.x.(y+1)/31               │
//!  │ table inet hearth        │veth │ tap0 169.254.0.22/30 ──── VM (guest │
//!  └──────────────────────────┘     │                    169.254.0.21/30) │
//!                                   └─────────────────────────────────────┘
//! ```
//!
//! Every guest has the same address, MAC and gateway, so a memory snapshot can
//! be restored into any slot. The host reaches a guest by its slot's *host
//! address*, on every port, without entering a namespace.
//!
//! The invariants:
//! - A slot belongs to the pool, or to one holder; an index is never handed out
//!   twice ([`pool`] has the states).
//! - A frame whose source is not the guest's own MAC and address dies at the
//!   TAP's ingress, before any routing; IPv6 has no path at all.
//! - The host's table knows guests by interface wildcard and set membership, so
//!   its cost per packet does not grow with the number of slots. It is replaced
//!   in one nftables transaction: there is no moment without it.
//! - Guests reach the outside, and the name servers on port 53. They do not reach
//!   each other, the host, or private, link-local and metadata addresses.
//! - Links and namespaces are made through netlink by threads that exist for one
//!   job; no thread that has been in another namespace ever runs anything else.

#![warn(missing_docs)]

pub mod address;
mod capacity;
mod config;
mod conntrack;
pub mod doctor;
mod error;
mod host;
mod ledger;
pub mod netns;
mod nft;
mod owners;
mod policy;
pub mod pool;
mod resolver;
mod rtnl;
mod ruleset;
pub mod scratch;
pub mod services;
mod slot;
mod state;
mod sysctl;
pub mod tap;

pub use config::{DEFAULT_UIDS, NetworkConfig, RangePair, TapOwner, UidRange};
pub use error::Error;
pub use policy::{Adoption, Divert, EVERYWHERE, Policy};
pub use pool::{PoolStatus, SlotPool};
pub use resolver::guest_nameservers;
pub use slot::Slot;
