//! All sandboxes of the node, whichever team they are of.

use super::Fleet;
use crate::node::{NodeError, NodeSandboxState, SandboxQuery, SandboxSummary};
use std::sync::Arc;

impl Fleet {
    /// The sandboxes that are not paused.
    pub(crate) async fn active(&self) -> Result<Vec<Arc<SandboxSummary>>, NodeError> {
        let query = || SandboxQuery {
            skip_paused: true,
            ..SandboxQuery::default()
        };
        let mut all = self.all(super::Table::everything, query).await?;
        all.retain(|sandbox| sandbox.state != NodeSandboxState::Paused);
        Ok(all)
    }
}
