//! Holds as values: who cannot be read, and which builds stay for it.

use crate::gc::Held;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, SandboxId};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

/// Who cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// A build, for its manifest.
    Build(BuildId),
    /// A sandbox, for its journal.
    Sandbox(SandboxId),
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(id) => write!(formatter, "build {id}"),
            Self::Sandbox(id) => write!(formatter, "sandbox {id}"),
        }
    }
}

/// Builds that garbage collection leaves because somebody who cannot be read may need
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who cannot be read.
    pub holder: Holder,
    /// What of it cannot be read.
    pub path: PathBuf,
    /// When that was found first.
    pub since: DateTime<Utc>,
    /// The builds that were there then.
    pub builds: BTreeSet<BuildId>,
    /// Tells whether the file is the one that could not be read.
    pub(crate) evidence: String,
}

/// Holds of this process.
pub(crate) type Holds = BTreeMap<Holder, Held>;
