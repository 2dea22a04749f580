//! What this host's processor can do.

use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The processor's features as the kernel names them, which no running kernel changes.
/// Empty where it does not tell.
pub(crate) fn cpu_features() -> &'static BTreeSet<String> {
    static FEATURES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        features(&text)
    });
    &FEATURES
}

fn features(cpuinfo: &str) -> BTreeSet<String> {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let words = flags.map(|(_, flags)| flags.split_whitespace());
    words.into_iter().flatten().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_first_processor() {
        let text = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2\nbugs : x\n\nflags\t: other\n";
        let found: Vec<_> = features(text).into_iter().collect();
        assert_eq!(found, ["avx2", "fpu", "sse4_2"]);
        assert!(features("Processor\t: AArch64\n").is_empty());
    }
}
