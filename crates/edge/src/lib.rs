//! The edge: the reverse proxy between the world and the sandboxes.
//!
//! A request is for a sandbox when its host name says so (`{port}-{sandboxID}.…`),
//! when routing headers say so on a host that is shared, or when it carries the
//! signature of a file URL; [`target`] decides, without I/O. Everything else is
//! handed, untouched, to the service behind the edge (the REST API).
//!
//! ```text
//!  accept ─▶ Server ─▶ EdgeService ─▶ classify ─┬─▶ fallback service
//!            (h1, h2, TLS)                         └─▶ upstream pool ─▶ guest
//! ```
//!
//! What the edge holds per sandbox is an *upstream pool*: its idle connections and its count
//! of open requests. A pool lives as long as the route's `closed` token; when that
//! fires, every dial, response and tunnel of the pool ends, and a client's next
//! request is told that the sandbox was not found. Bodies are never gathered: a
//! chunk is passed on before the next is read, so memory per request is bounded by
//! the transport's buffers.
//!
//! The edge knows nothing of REST, stores or VMs: it asks a [`Routes`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod answer;
mod body;
mod budget;
mod config;
mod drain;
mod forward;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod guest_tls;
mod headers;
mod internal;
mod loopback;
mod metrics;
mod page;
mod record;
mod refusal;
mod routes;
mod server;
mod service;
mod signature;
pub mod target;
mod threads;
mod tls;
mod tunnel;
mod upstream;
mod watch;

pub use body::EdgeBody;
pub use budget::Budget;
pub use config::{EdgeConfig, ServerConfig};
pub use refusal::Refusal;
pub use routes::{Credentials, Route, RouteTable, Routes, Visited, WakeError};
pub use server::{Peer, Server, ServerStopped, serve, serve_tls};
pub use service::{Edge, EdgeService, NoFallback, Stats};
pub use signature::{FileOperation, file_signature};
pub use threads::ConnectionThreads;

/// The guest agent's port. Its routes are guarded by the agent's own token.
pub const AGENT_PORT: u16 = 49_983;

/// The `tracing` target of the access log: one event at INFO for each request, when
/// it is over.
pub const ACCESS_LOG: &str = "hearth_edge::access";

/// The error type of streamed bodies.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
