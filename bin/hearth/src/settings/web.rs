//! `[web]`: the web interface.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The web interface, at the API's own address.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebSettings {
    /// Serve it. Without it, links of E2B's tools lead to pages that name commands.
    pub enabled: bool,
}

impl Default for WebSettings {
    fn default() -> Self {
        Self { enabled: true }
    }
}
