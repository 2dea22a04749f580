//! The code interpreter that runs inside a sandbox: HTTP on one side, Jupyter
//! kernels on the other.
//!
//! ```text
//! client ─POST /execute─▶ http ─▶ Contexts ─▶ one task per context ─ZMTP─▶ kernel process
//!        ◀─NDJSON lines──────────────────────┘       (python3, node, bash, R, java)
//! ```
//!
//! A context is a kernel with its variables. Its task owns the process and the
//! sockets, runs one execution at a time and is told everything else (restart,
//! removal, a client that left) by messages. What a kernel sends is bounded before
//! it is parsed, and what a client does not read in time is not collected without
//! limit.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod connection;
mod context;
mod contexts;
mod environment;
mod execution;
mod http;
mod kernel;
mod kernelspec;
mod language;
mod message;
mod output;
mod zmtp;

pub use contexts::{Contexts, Error, Warming};
pub use environment::Agent;
pub use http::router;
pub use kernelspec::{Catalogue, KernelSpec};
pub use language::Language;
pub use output::Output;

use std::path::PathBuf;

/// What the server is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where kernels are looked up: directories that hold `kernels/<name>/kernel.json`,
    /// the first one wins.
    pub kernel_paths: Vec<PathBuf>,
    /// Where code runs unless a context says otherwise.
    pub home: PathBuf,
    /// Where connection files are kept; they hold the kernels' keys.
    pub run_dir: PathBuf,
    /// The agent that knows the sandbox's environment variables; none outside a
    /// sandbox.
    pub agent: Option<Agent>,
}
