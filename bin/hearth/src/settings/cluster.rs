//! `[cluster]`: the control plane's listener for nodes that run elsewhere.

use super::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Machines that join as nodes. Nothing listens for them unless it is set here.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// TCP address that nodes join at and report to, over mutual TLS. `hearth node token`
    /// prints what a machine joins with.
    #[schemars(example = "0.0.0.0:5009")]
    pub listen: Option<SocketAddr>,
}

impl ClusterSettings {
    pub(super) fn check(&self) -> Result<(), Problem> {
        match self.listen {
            Some(address) if address.port() == 0 => Err(Problem::new(
                "cluster.listen",
                "needs a port that nodes can be told, such as 5009",
            )),
            _ => Ok(()),
        }
    }
}
