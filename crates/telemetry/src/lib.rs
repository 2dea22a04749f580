//! What sandboxes tell of themselves, collected and kept on the node's disk: their
//! logs and samples of what they use.
//!
//! ```text
//!  agents ──GET /telemetry──▶ Collector ──▶ Store (files) ──▶ control's Telemetry
//! ```
//!
//! One task per running sandbox reads that sandbox's stream. Guests are not
//! trusted: lines, rates and files are bounded, and nothing that a guest sends can
//! do more than fill its own share. What a sandbox told outlives it, for
//! [`store::Limits::keep`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod collector;
pub mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod segments;
pub mod store;
pub mod stream;

pub use collector::{Collector, Source, Target};
pub use events::{Event, EventLog};
pub use store::{Limits, Store};
