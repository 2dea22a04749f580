//! The builds on this node's disk, as its callers see them.

use crate::error::Error;
use chrono::{DateTime, Utc};
use hearth_ids::BuildId;
use hearth_snapshot::{Kind, LocalStore};

/// A build on this node's disk.
#[derive(Debug, Clone)]
pub struct BuildInfo {
    pub build_id: BuildId,
    pub kind: Kind,
    pub created_at: DateTime<Utc>,
    /// Bytes on disk of its own files.
    pub own_bytes: u64,
    pub parents: Vec<BuildId>,
}

/// The builds that are in use or can be, oldest first.
pub(crate) async fn list(store: &LocalStore) -> Result<Vec<BuildInfo>, Error> {
    let all = store.list_all().await;
    let all = all.map_err(Error::step("list the builds"))?;
    let live = all.into_iter().filter(|(build, _)| !build.is_retired());
    Ok(live
        .map(|(build, own_bytes)| BuildInfo {
            build_id: build.manifest.build_id,
            kind: build.manifest.kind,
            created_at: build.manifest.created_at,
            own_bytes,
            parents: build.manifest.parents,
        })
        .collect())
}
