//! What a session may be told beforehand.

use std::time::Duration;

/// How sandboxes are made, and what becomes of them.
#[derive(Debug, Clone)]
pub struct Options {
    /// Template of a sandbox for which the agent names none.
    pub template: String,
    /// How long a sandbox lives after its last use, at least.
    pub timeout: Duration,
    /// Whether ports of sandboxes are reached over TLS.
    pub tls: bool,
    /// Whether sandboxes outlive the session in which they were made.
    pub keep: bool,
}
