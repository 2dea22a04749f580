//! Where a sandbox goes: a pure function of what is known of the nodes and of what is
//! asked for. No clock, no I/O, no state of its own.
//!
//! ```text
//!  request ─▶ gates ─▶ a sample of those that pass ─▶ score ─▶ the best few, in order
//!             state, exact node, labels,   k of those with the build
//!             platform, room               k of all
//! ```
//!
//! What is known of nodes is old by some seconds, and several processes choose at the same
//! time. Were each to take the best of all, they would all take the same one. So a node is
//! chosen among [`SAMPLE`] at random of those with the build and as many of all: the load
//! spreads nearly as well, and no node is run over. The node's own admission has the last
//! word; where it refuses, the next of the ranking is asked.
//!
//! ## The score
//!
//! In points, of which 1,000 are one whole node ([`score`]):
//!
//! | part | points |
//! |---|---|
//! | room: what would be left of the scarcest of memory, processors and slots | 0 to 1,000 |
//! | the build is there | 300: until the node is 30 % fuller than one without it |
//! | a warm VM of the build is there | 200 |
//! | each sandbox that is starting there | −10, at most −200 |
//!
//! The scarcest resource counts alone, as a node without memory is full however many
//! processors it has. Spread follows from room: the emptier node gets the sandbox.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cluster;
mod node;
mod rank;
mod refusal;
mod request;
mod sample;

pub use cluster::Cluster;
pub use node::{Amount, Node, Platform, State};
pub use rank::{Choice, MOST_CHOICES, SAMPLE, rank, score};
pub use refusal::{Refusal, Unplaced};
pub use request::Request;
