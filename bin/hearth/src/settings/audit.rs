//! `[audit]`: the audit log.

use super::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who changed what, in `<state_dir>/audit.log`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// Whether there is an audit log.
    pub enabled: bool,
    /// Size in MiB at which a file is rotated.
    pub file_mib: u64,
    /// Files that are kept, with the one that is written to; at least 1.
    pub files: u32,
}

impl Default for AuditSettings {
    fn default() -> Self {
        let config = hearth_audit::Config::default();
        Self {
            enabled: true,
            file_mib: config.file_mib,
            files: config.files,
        }
    }
}

impl AuditSettings {
    /// The log's own form.
    pub fn config(&self) -> hearth_audit::Config {
        hearth_audit::Config {
            file_mib: self.file_mib,
            files: self.files,
        }
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.file_mib == 0 {
            return Err(Problem::new("audit.file_mib", "must be at least 1"));
        }
        if self.files == 0 {
            return Err(Problem::new("audit.files", "must be at least 1"));
        }
        Ok(())
    }
}
