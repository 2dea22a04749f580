//! Being a node of a cluster: the control plane's service for nodes, and the part of a node
//! that calls it.
//!
//! ```text
//!  node: join ────────▶ cluster.listen: Service ─▶ hearth_control::Members ─▶ store
//!        Node::follow ─▶   renew, announce, heartbeat, leave
//! ```
//!
//! The transport and what proves who calls are `hearth-cluster`'s. A node goes on with what
//! runs on it whatever becomes of these calls.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod client;
mod issuer;
mod node;
mod service;

pub use client::{ControlPlane, Error, join};
pub use issuer::Issuer;
pub use node::{Node, Standing};
pub use service::service;

/// Where nodes connect to, unless configured.
pub const DEFAULT_PORT: u16 = 5009;
