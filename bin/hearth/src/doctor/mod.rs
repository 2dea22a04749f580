//! Whether this machine can run Hearth: a list of checks, each with the line that
//! mends it. `hearth doctor` prints them; `hearth up` stops at a failed one.

mod host;
mod resources;

use crate::settings::{EngineChoice, Settings};

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was found, in a few words.
    pub detail: String,
    /// The line that mends it; empty where nothing is amiss.
    pub fix: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Hearth runs, with less than it could.
    Warning,
    /// Hearth cannot run.
    Failed,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            detail: detail.into(),
            fix: String::new(),
        }
    }

    fn warning(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Warning,
            detail: detail.into(),
            fix: fix.into(),
        }
    }

    fn failed(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Failed,
            detail: detail.into(),
            fix: fix.into(),
        }
    }
}

/// Runs every check. The one of the accelerator runs code for up to a second.
pub async fn examine(settings: &Settings) -> Vec<Check> {
    let mut checks = vec![
        host::user(),
        host::architecture(),
        host::engine(settings).await,
    ];
    if settings.node.engine != EngineChoice::Firecracker {
        checks.push(host::accelerator().await);
    }
    checks.extend(host::kernel_features());
    checks.extend(host::tools(settings));
    checks.push(host::cgroups());
    checks.push(resources::guest_programs(settings));
    checks.extend(resources::network(settings));
    checks.extend(resources::ports(settings));
    checks.push(resources::memory(settings));
    checks.extend(resources::disk(settings));
    checks.push(resources::descriptors(settings));
    checks.extend(resources::quarantine(settings).await);
    checks
}

/// Whether nothing stands in the way of a start.
pub fn passed(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict != Verdict::Failed)
}
