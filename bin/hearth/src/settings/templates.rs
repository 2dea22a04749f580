//! `[template]` and `[code_interpreter]`: the shapes of the built-in templates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the `base` template. A change takes effect with the next `hearth up`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TemplateSettings {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in MiB.
    pub disk_mib: u32,
}

impl Default for TemplateSettings {
    fn default() -> Self {
        Self {
            vcpus: 2,
            memory_mib: 512,
            disk_mib: 4096,
        }
    }
}

/// Shape of the code interpreter's template. A change takes effect with the next
/// `hearth template prepare`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CodeInterpreterSettings {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Disk in MiB.
    pub disk_mib: u32,
}

impl Default for CodeInterpreterSettings {
    fn default() -> Self {
        Self {
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 8192,
        }
    }
}
