//! Builds on nodes that nothing refers to, or not yet.
//!
//! A note is written before such a build is made and before its last reference goes,
//! so that none is forgotten. It belongs to the process that is at work on the build;
//! when that dies another one takes the note over, and with it the duty to delete.

use crate::{OwnerId, Result};
use async_trait::async_trait;
use hearth_ids::BuildId;

/// The part of the store that keeps the notes.
#[async_trait]
pub trait DiscardStore: Send + Sync {
    /// Notes that a node may hold a build that nothing here refers to. Whoever notes
    /// last owns the note.
    async fn discard_add(&self, build: BuildId, owner: &OwnerId) -> Result<()>;
    /// The build is gone from the nodes.
    async fn discard_remove(&self, build: BuildId) -> Result<()>;
    /// All that is noted, whoever owns it.
    async fn discard_list(&self) -> Result<Vec<BuildId>>;
    /// Takes over, and answers, the notes of all owners that hold no
    /// [presence](crate::LeaseName::presence) now.
    async fn discard_take_over(&self, by: &OwnerId) -> Result<Vec<BuildId>>;
}
