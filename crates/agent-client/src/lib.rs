//! The client of the agent in each guest, for everyone who speaks to one.
//!
//! | type | connections | for |
//! |---|---|---|
//! | [`Agent`] | one per request | the host of a VM: settings, freezing, single files as root |
//! | [`AgentClient`] | kept in a pool | processes and files, directly or through the edge |
//!
//! A VM that is saved keeps what its agent has open: whoever saves one drops its
//! [`AgentClient`] before, while an [`Agent`] holds nothing between requests.
//!
//! A guest is not trusted: what it answers is bounded in size, and in time by whoever
//! asks. Plain HTTP only: the way to a guest is the host's own, or a tunnel.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod agent;
mod client;
mod command;
mod error;
mod exchange;
mod files;
mod terminal;
pub mod transport;

pub use agent::{Agent, Init, Operation, VolumeMount};
pub use client::{AgentClient, ProcessInfo, Signal};
pub use command::{Command, CommandEvent, CommandStream, Exit, Output};
pub use error::Error;
pub use terminal::PtySize;

/// Port of the agent in every guest.
pub const AGENT_PORT: u16 = 49983;

/// The result of every call.
pub type Result<T> = std::result::Result<T, Error>;
