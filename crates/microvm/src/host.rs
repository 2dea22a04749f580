//! What an engine offers, in the words of the builds that are kept of its VMs.

use hearth_machine::{Capabilities, accelerator};
use hearth_snapshot::{Accelerator, CpuRequirement, EngineVersion, Host};

/// What a build says that is kept here, and what is asked of one that is to go on here.
#[must_use]
pub fn host(capabilities: &Capabilities) -> Host {
    Host {
        engine: EngineVersion {
            name: capabilities.engine.to_owned(),
            version: capabilities.version.clone(),
        },
        cpu: CpuRequirement {
            accelerator: match capabilities.accelerator {
                accelerator::Accelerator::Kvm => Accelerator::Kvm,
                accelerator::Accelerator::Tcg { .. } => Accelerator::Tcg,
            },
            model: capabilities.cpu.model.clone(),
            features: capabilities.cpu.features.iter().cloned().collect(),
        },
    }
}
