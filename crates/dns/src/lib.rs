//! The authoritative name server of one domain whose every name is this host.
//!
//! [`Zone`] turns the bytes of a query into those of its answer and does no I/O;
//! [`serve`] feeds it from UDP and TCP. It answers for its own domain and refuses
//! everything else: it never asks another server, so it cannot be used to reach or
//! to flood anybody.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod server;
mod zone;

pub use server::serve;
pub use zone::{Zone, ZoneError};
