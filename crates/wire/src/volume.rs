//! Volumes, and the API for their content, whose errors have a form of their own.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A volume to be made.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct NewVolume {
    /// Of a-z, A-Z, 0-9, "_" and "-"; unique among the team's volumes.
    #[schema(pattern = "^[a-zA-Z0-9_-]+$", max_length = 128)]
    pub name: String,
}

/// A copy to be made of a volume.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub struct CopyVolume {
    /// The name of the new volume.
    #[schema(pattern = "^[a-zA-Z0-9_-]+$", max_length = 128)]
    pub name: String,
}

/// How far a volume has come, where it cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// It is still being copied.
    Making,
    /// Its copying failed or was interrupted: it can only be deleted.
    Failed,
}

/// A volume in a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    #[serde(rename = "volumeID")]
    pub volume_id: String,
    pub name: String,
    /// Absent where the volume can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<VolumeState>,
}

/// A volume, and what opens its content.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VolumeAndToken {
    #[serde(rename = "volumeID")]
    pub volume_id: String,
    pub name: String,
    /// For the `Authorization: Bearer` header of `/volumecontent`; good for an hour.
    pub token: String,
    /// Absent where the volume can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<VolumeState>,
}

/// How much a volume holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct VolumeUsage {
    /// On disk.
    pub bytes: u64,
    /// Files, directories and others, without the root.
    pub entries: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeEntryType {
    File,
    Directory,
    Symlink,
    /// A FIFO, a socket or a device.
    Unknown,
}

/// Something in a volume; a link is told of itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VolumeEntry {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: VolumeEntryType,
    /// Absolute within the volume.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    #[serde(serialize_with = "crate::time::serialize")]
    pub atime: DateTime<Utc>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub mtime: DateTime<Utc>,
    #[serde(serialize_with = "crate::time::serialize")]
    pub ctime: DateTime<Utc>,
    /// Where a link points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Changes of an entry; what is left out stays.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
pub struct SetVolumePath {
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
    /// Permission bits.
    #[serde(default)]
    #[schema(maximum = 4095)]
    pub mode: Option<u32>,
}

/// An error of the content API: unlike elsewhere, its code is a word.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VolumeContentError {
    /// `PATH_NOT_FOUND`, `PATH_ALREADY_EXISTS`, `CANNOT_DELETE_ROOT`, `NOT_SUPPORTED`,
    /// `DEPTH_OUT_OF_RANGE`, `INVALID_REQUEST`, `NOT_ENOUGH_SPACE`, `UNAUTHENTICATED`,
    /// `FORBIDDEN`, `VOLUME_NOT_READY`, `RATE_LIMITED`, `UNAVAILABLE`, `INTERNAL`.
    pub code: String,
    pub message: String,
}
