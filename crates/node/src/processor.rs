//! Whether a memory that was saved on some processor can go on on this one.
//!
//! A device state holds no list of what the processor could do, so the engine loads it
//! anywhere, and the guest fails later at an instruction that is not there, or at once at
//! a register that the other accelerator does not have. The build says what it was saved
//! on, so a restore is refused before it is begun, with the cause in words.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use hearth_machine::accelerator::Accelerator as Here;
use hearth_snapshot::{Accelerator, CpuRequirement};

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

/// This host's features, which no running kernel changes.
static FEATURES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    features(&text)
});

fn features(cpuinfo: &str) -> BTreeSet<String> {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let words = flags.map(|(_, flags)| flags.split_whitespace());
    words.into_iter().flatten().map(str::to_owned).collect()
}

/// What a memory that is saved here needs.
pub(crate) fn requirement(here: &Here) -> CpuRequirement {
    match here {
        Here::Kvm => CpuRequirement {
            accelerator: Accelerator::Kvm,
            model: "host".to_owned(),
            features: FEATURES.iter().cloned().collect(),
        },
        Here::Tcg { .. } => CpuRequirement {
            accelerator: Accelerator::Tcg,
            model: hearth_machine::qemu::EMULATED_CPU.to_owned(),
            features: Vec::new(),
        },
    }
}

/// Why what was saved under `wanted` cannot go on here.
pub(crate) fn check(wanted: &CpuRequirement, here: &Here) -> Result<(), String> {
    // Emulated processors are the same everywhere; their hosts' features are not asked for.
    let features = match here {
        Here::Kvm => &*FEATURES,
        Here::Tcg { .. } => &BTreeSet::new(),
    };
    compare(wanted, here, features)
}

fn compare(
    wanted: &CpuRequirement,
    here: &Here,
    features: &BTreeSet<String>,
) -> Result<(), String> {
    let remedy = "it can start from its disk alone, or be made again here";
    let saved_on = match (wanted.accelerator, here) {
        (Accelerator::Kvm, Here::Kvm) => None,
        (Accelerator::Tcg, Here::Tcg { .. }) => return Ok(()),
        (Accelerator::Kvm, Here::Tcg { .. }) => Some("kvm"),
        (Accelerator::Tcg, Here::Kvm) => Some("tcg"),
    };
    if let Some(saved_on) = saved_on {
        return Err(format!(
            "its memory was saved on {saved_on}, and guests run on {here} here: {remedy}"
        ));
    }
    let used = |name: &&String| {
        USED_BY_PROGRAMS.contains(&name.as_str())
            || FAMILIES.iter().any(|family| name.starts_with(family))
    };
    let missing: Vec<&str> = wanted
        .features
        .iter()
        .filter(used)
        .filter(|name| !features.contains(*name))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "its memory was saved on a processor with {}, which this one lacks: {remedy}",
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accelerator: Accelerator, features: &[&str]) -> CpuRequirement {
        CpuRequirement {
            accelerator,
            model: "host".to_owned(),
            features: features.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn tcg() -> Here {
        Here::Tcg {
            reason: "no device".to_owned(),
        }
    }

    #[test]
    fn what_is_saved_here_goes_on_here() {
        for here in [Here::Kvm, tcg()] {
            assert_eq!(check(&requirement(&here), &here), Ok(()));
        }
        assert!(requirement(&tcg()).features.is_empty());
        assert!(requirement(&Here::Kvm).features.is_sorted());
    }

    #[test]
    fn the_accelerator_must_be_the_same() {
        let none = BTreeSet::new();
        let kvm = wanted(Accelerator::Kvm, &[]);
        let emulated = wanted(Accelerator::Tcg, &[]);
        assert_eq!(compare(&kvm, &Here::Kvm, &none), Ok(()));
        assert_eq!(compare(&emulated, &tcg(), &none), Ok(()));
        let refused = compare(&kvm, &tcg(), &none).unwrap_err();
        assert!(
            refused.contains("saved on kvm") && refused.contains("tcg (no device)"),
            "{refused}"
        );
        let refused = compare(&emulated, &Here::Kvm, &none).unwrap_err();
        assert!(refused.contains("saved on tcg"), "{refused}");
    }

    #[test]
    fn what_programs_use_must_be_there() {
        let here = features("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 new_name\n\nflags\t: x\n");
        assert_eq!(here.len(), 4);
        let same = wanted(Accelerator::Kvm, &["avx2", "fpu", "sse4_2"]);
        assert_eq!(compare(&same, &Here::Kvm, &here), Ok(()));
        // The kernel's own names come and go with its version.
        let renamed = wanted(Accelerator::Kvm, &["avx2", "old_name", "rep_good"]);
        assert_eq!(compare(&renamed, &Here::Kvm, &here), Ok(()));
        let newer = wanted(Accelerator::Kvm, &["avx2", "avx512f", "sha_ni"]);
        let refused = compare(&newer, &Here::Kvm, &here).unwrap_err();
        assert!(refused.contains("with avx512f, sha_ni, which"), "{refused}");
    }
}
