//! The agent that runs inside every sandbox.
//!
//! It owns what a client may do there: start processes and talk to them
//! ([`process`]), read and change files ([`files`]), and the few plain HTTP
//! routes around both ([`http`]). As PID 1 it also brings the guest up
//! ([`boot`]). It knows nothing of hosts, teams or templates: what it must know
//! of the world outside arrives once per start in `POST /init` ([`settings`]).
//!
//! ```text
//!  client ──HTTP/1.1, h2c──▶ http ──▶ process ──▶ sys::spawn ──▶ user's program
//!                             │  └──▶ files   (with root's power, for a user)
//!                             └─/init─▶ settings, clock, entropy, host name
//! ```
//!
//! One thread runs all network and process traffic; file operations run on blocking
//! threads. Everything that needs `unsafe` is in [`sys`].

pub mod agent;
pub mod boot;
pub mod cgroups;
pub mod files;
pub mod handover;
pub mod http;
pub mod logging;
pub mod paths;
pub mod process;
pub mod settings;
pub mod sys;
pub mod telemetry;
pub mod users;

pub use agent::{Agent, Config, Error, Outcome, Server};

/// The agent version that clients are told. Their feature gates compare it, so
/// it names the generation of the wire contract, not this crate.
pub const ENVD_VERSION: &str = "0.6.13";

/// The port that clients expect the agent on.
pub const DEFAULT_PORT: u16 = 49983;
