//! Whether a memory that was saved elsewhere, or under an earlier engine, can go on here.
//!
//! A device state holds neither what the processor could do nor, in a way that every
//! engine checks, which devices wrote it. It may load and the guest fail later, at an
//! instruction or a register that is not there. The build says what it was saved on, so a
//! restore is refused before it is begun, with the cause and a remedy in words. A start
//! from the build's disk alone needs none of this.

use std::fmt;

use hearth_ids::BuildId;

use super::{Accelerator, CpuRequirement, EngineVersion, Manifest};

/// Features that programs use and do not look for again once they have found them. The
/// kernel's list also has what it made up itself and names anew from version to version.
const USED_BY_PROGRAMS: &[&str] = &[
    "adx",
    "aes",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "cx16",
    "erms",
    "f16c",
    "fma",
    "fsgsbase",
    "fsrm",
    "gfni",
    "lzcnt",
    "abm",
    "movbe",
    "movdir64b",
    "movdiri",
    "pclmulqdq",
    "pku",
    "pni",
    "popcnt",
    "rdpid",
    "rdrand",
    "rdseed",
    "rdtscp",
    "serialize",
    "sha_ni",
    "sse4_1",
    "sse4_2",
    "sse4a",
    "ssse3",
    "vaes",
    "vpclmulqdq",
    "xsave",
    "xsavec",
    "xsaveopt",
    "xsaves",
];
/// Whole families of them.
const FAMILIES: &[&str] = &["avx512", "avx_", "amx_"];

/// What saved VMs meet on a node, in the words of the manifests that are written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The engine that restores them.
    pub engine: EngineVersion,
    /// The accelerator and the processor that they go on with.
    pub cpu: CpuRequirement,
}

/// A saved VM cannot go on here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the memory of build {build} {why}; a start from its disk alone works, as does one of a \
     build that is made again here"
)]
pub struct Incompatible {
    /// The build.
    pub build: BuildId,
    /// What it needs that is not here.
    pub why: Mismatch,
}

/// What a saved VM needs and a node does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// Another engine.
    Engine {
        /// That it was saved by.
        saved: EngineVersion,
        /// That is here.
        here: EngineVersion,
    },
    /// A version of the engine whose device states this one's does not load for sure.
    EngineVersion {
        /// That it was saved by.
        saved: EngineVersion,
        /// That is here.
        here: EngineVersion,
    },
    /// The other accelerator.
    Accelerator {
        /// That it was saved on.
        saved: Accelerator,
        /// That is here.
        here: Accelerator,
    },
    /// Another processor model.
    Model {
        /// That the guest saw.
        saved: String,
        /// That guests see here.
        here: String,
    },
    /// Features that the processor here lacks.
    Features(Vec<String>),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine { saved, here } => write!(
                f,
                "was saved by {saved} and only {} restores it; this node runs {here}: build the \
                 template anew here, or start the sandbox on a node whose node.engine is {}",
                saved.name, saved.name
            ),
            Self::EngineVersion { saved, here } => write!(
                f,
                "was saved by {saved} and this node runs {here}, which is only sure to load what \
                 a version {}.x saved",
                here.series()
            ),
            Self::Accelerator { saved, here } => write!(
                f,
                "was saved on {saved}, and guests run on {here} on this node"
            ),
            Self::Model { saved, here } => write!(
                f,
                "was saved on the processor model {saved}, and guests see {here} on this node"
            ),
            Self::Features(missing) => write!(
                f,
                "was saved on a processor with {}, which this node's lacks",
                missing.join(", ")
            ),
        }
    }
}

impl fmt::Display for EngineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

impl EngineVersion {
    /// The part of the version within which device states load: a distribution's fixes
    /// count up what comes after it. All of a version that is not made of numbers.
    fn series(&self) -> &str {
        let mut dots = self.version.match_indices('.');
        let major = self.version.split('.').next();
        let numbered =
            major.is_some_and(|it| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit()));
        match dots.nth(1) {
            Some((end, _)) if numbered => &self.version[..end],
            _ => &self.version,
        }
    }
}

impl Manifest {
    /// Whether the memory that was saved in this build can go on at `here`.
    ///
    /// # Errors
    /// [`Incompatible`], with the first thing that is not as the build needs it.
    pub fn runs_on(&self, here: &Host) -> Result<(), Incompatible> {
        let refuse = |why| {
            Err(Incompatible {
                build: self.build_id,
                why,
            })
        };
        let (engine, cpu) = (&self.engine, &self.cpu);
        let versions = || (engine.clone(), here.engine.clone());
        if engine.name != here.engine.name {
            let (saved, here) = versions();
            return refuse(Mismatch::Engine { saved, here });
        }
        if engine.series() != here.engine.series() {
            let (saved, here) = versions();
            return refuse(Mismatch::EngineVersion { saved, here });
        }
        if cpu.accelerator != here.cpu.accelerator {
            return refuse(Mismatch::Accelerator {
                saved: cpu.accelerator,
                here: here.cpu.accelerator,
            });
        }
        if cpu.model != here.cpu.model {
            return refuse(Mismatch::Model {
                saved: cpu.model.clone(),
                here: here.cpu.model.clone(),
            });
        }
        let missing = missing(&cpu.features, &here.cpu);
        if missing.is_empty() {
            Ok(())
        } else {
            refuse(Mismatch::Features(missing))
        }
    }
}

/// What programs may use of `wanted` and do not find here. An emulated processor is the
/// same everywhere, so a build that was saved on one lists none.
fn missing(wanted: &[String], here: &CpuRequirement) -> Vec<String> {
    let used = |name: &&String| {
        USED_BY_PROGRAMS.contains(&name.as_str())
            || FAMILIES.iter().any(|family| name.starts_with(family))
    };
    wanted
        .iter()
        .filter(used)
        .filter(|name| !here.features.contains(name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
