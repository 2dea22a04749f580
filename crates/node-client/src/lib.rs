//! The application layer's ports, carried out over the network: [`NodeClient`]
//! speaks gRPC to a node, [`AgentClient`] HTTP to the agent in a guest.
//!
//! What a peer sends is data like any other input: each message is checked on its
//! way in, and one that cannot be read is an error of that peer's.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod agent;
mod client;
mod convert;
mod events;
mod template;

pub use agent::AgentClient;
pub use client::NodeClient;
