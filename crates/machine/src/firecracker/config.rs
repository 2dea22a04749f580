//! What the engine is called and told.

use std::path::PathBuf;

use crate::Console;

/// Name of this engine in capabilities and records.
pub const ENGINE: &str = "firecracker";

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct FirecrackerConfig {
    /// The executable.
    pub program: PathBuf,
    /// Where the console of a restored VM goes. That of a booted one goes to a file.
    pub restored_console: Console,
}
