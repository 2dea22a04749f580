//! Template builds on one node: from an image, a template or a root file system,
//! through the steps of its author, to a build that sandboxes start from.
//!
//! ```text
//!  grpc ─▶ Templates ─▶ Run ─┬▶ image      registry ─▶ tree ─▶ ext4
//!          (one task         ├▶ steps      layers from the cache, or made in a VM
//!           per build)       └▶ finalize   fresh boot, start, ready, snapshot
//! ```
//!
//! Everything that a build's author wrote runs in a microVM that is held like a
//! sandbox's; the host reads archives, and never runs or unpacks anything of an
//! author outside of a VM. A build that fails or is given up leaves nothing but
//! its log and the layers of the steps that succeeded.

#![forbid(unsafe_code)]

mod adapt;
mod cache;
mod context;
mod copy;
mod error;
mod files;
mod finalize;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod image;
mod log;
mod manager;
mod modules;
mod run;
mod settle;
mod shared;
mod shell;
mod spec;
mod steps;
mod vm;
mod vm_records;

pub use context::{Context, DEFAULT_USER, DEFAULT_WORKDIR};
pub use error::{Error, Failure, Part};
pub use files::Piece;
pub use grpc::Service;
pub use log::{Entry, Level, LogLimits};
pub use manager::{Status, Templates, View};
pub use run::{Ready, free_memory};
pub use shared::{Config, Guest, Limits};
pub use spec::{
    BuildSpec, Copy, FilesHash, ImageSource, Instruction, MAX_STEPS, RootfsSource, Scope, Source,
    Step,
};
pub use vm_records::end_leftovers;
