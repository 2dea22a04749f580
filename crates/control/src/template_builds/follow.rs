//! Followers: a task for each build that runs, which writes its end down.

use super::INTERRUPTED;
use crate::error::Error;
use crate::template_node::NodeBuildState;
use crate::{Control, NodeError};
use chrono::Utc;
use hearth_ids::BuildId;
use hearth_store::BuildStatus;
use std::sync::Arc;
use std::time::Duration;

/// How long a follower's question may wait at the node.
const FOLLOW: Duration = Duration::from_secs(20);
/// Pause of a follower after a node that did not answer.
const RETRY: Duration = Duration::from_secs(1);

impl Control {
    /// Writes a build's end down, once. Answers whether it has ended.
    pub(super) async fn settle(&self, id: BuildId, state: &NodeBuildState) -> Result<bool, Error> {
        let now = Utc::now();
        match state {
            NodeBuildState::Building => return Ok(false),
            NodeBuildState::Ready {
                disk_mib,
                envd_version,
            } => {
                self.store
                    .build_succeed(id, *disk_mib, envd_version, now)
                    .await?;
            }
            NodeBuildState::Failed { reason, step } => {
                self.store
                    .build_fail(id, reason, step.as_deref(), now)
                    .await?;
            }
        }
        Ok(true)
    }

    /// Follows every build that runs and is not followed yet: those that an earlier
    /// process, or another one that is gone, began.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn template_builds_take_up(self: &Arc<Self>) -> Result<(), Error> {
        for request in self.store.build_request_list_active().await? {
            if request.build.status == BuildStatus::Building {
                self.template_build_follow(request.build.id);
            }
        }
        Ok(())
    }

    pub(super) fn template_build_follow(self: &Arc<Self>, id: BuildId) {
        let Some(following) = self.followed.begin(id) else {
            return;
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let _following = following;
            let stop = this.followers_stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.follow(id) => {}
            }
        });
    }

    async fn follow(&self, id: BuildId) {
        loop {
            let Ok(node) = self.template_node() else {
                return;
            };
            let ended = match node.template_build_view(id, u64::MAX, 0, FOLLOW).await {
                Ok(view) => self.settle(id, &view.state).await,
                Err(NodeError::NotFound(_)) => {
                    let failed = self
                        .store
                        .build_fail(id, INTERRUPTED, None, Utc::now())
                        .await;
                    failed.map(|_| true).map_err(Error::from)
                }
                Err(error) => Err(Error::from_node(error)),
            };
            match ended {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(build = %id, %error, "follow template build failed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
