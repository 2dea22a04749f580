//! Volumes: names of directory trees, which are on the node's disk.
//!
//! ```text
//!  begin ─▶ Making ─▶ Ready ─▶ Removing ─▶ forgotten
//!              └────▶ Failed ────┘
//! ```
//!
//! A volume is noted before anything is made on disk and forgotten after everything is
//! gone from there, so that whatever a process leaves undone is known.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{TeamId, VolumeId};

/// How far a volume has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// Its content is being made: it can be used for nothing yet.
    Making,
    /// It can be used.
    Ready,
    /// Its making failed or was interrupted: it can only be removed.
    Failed,
    /// It is removed for everybody but whoever deletes its data. Its name is free.
    Removing,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Names its directory.
    pub id: VolumeId,
    /// Whose it is.
    pub team_id: TeamId,
    /// Unique among the team's volumes that are not being removed.
    pub name: String,
    /// How far it has come.
    pub state: VolumeState,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}

/// The part of the store that keeps volumes.
#[async_trait]
pub trait VolumeStore: Send + Sync {
    /// Notes a volume that is about to be made. False where the team has `most` volumes
    /// already. Errors: [`crate::Error::Conflict`] when it has one of this name or the id
    /// is taken.
    async fn volume_begin(&self, volume: Volume, most: u32) -> Result<bool>;
    /// A team's volumes in order of their names, without those that are being removed.
    async fn volume_list(&self, team: TeamId) -> Result<Vec<Volume>>;
    /// The team's volume of this id, unless it is being removed.
    async fn volume(&self, team: TeamId, id: VolumeId) -> Result<Option<Volume>>;
    /// Moves a volume from one state on to another. Answers whether it was in the first.
    async fn volume_advance(
        &self,
        id: VolumeId,
        from: VolumeState,
        to: VolumeState,
    ) -> Result<bool>;
    /// Begins to remove a volume of the team, in whichever state it is. Answers whether
    /// there was one that was not being removed yet.
    async fn volume_remove(&self, team: TeamId, id: VolumeId) -> Result<bool>;
    /// Forgets a volume that is being removed.
    async fn volume_forget(&self, id: VolumeId) -> Result<()>;
    /// The volumes of all teams that are being made or removed.
    async fn volume_list_unfinished(&self) -> Result<Vec<Volume>>;
}
