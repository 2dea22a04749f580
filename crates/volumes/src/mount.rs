//! What a sandbox mounts.

use hearth_ids::VolumeId;
use serde::{Deserialize, Serialize};

/// A volume in a sandbox. As JSON it is an element of `volume_mounts_json` of the node's
/// protocol and of journals:
///
/// ```json
/// {"volume": "6f1c…", "name": "data", "path": "/mnt/data"}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Which volume.
    pub volume: VolumeId,
    /// Its name when the sandbox was made, for lists. The node needs it for nothing.
    pub name: String,
    /// Where the guest sees it: absolute, without `.` and `..` components.
    pub path: String,
}
