//! What the kernel does to this process when the host runs out of memory: it is among the
//! last to go, and has some that nothing takes from it.
//!
//! Guests' VM processes say themselves that they are to go first, and programs that this
//! process starts to make templates are protected no more than any other's.

use std::fs;
use std::path::{Path, PathBuf};

/// Of the daemon; -1000 would be never, and hide a leak of its own.
const OOM_SCORE: i32 = -500;
const OWN_SCORE: &str = "/proc/self/oom_score_adj";
/// What stays with the daemon's group while others need memory, where it has one that
/// is limited from above it.
const LOW_BYTES: u64 = 256 << 20;

/// Protects this process, as far as this is allowed here.
pub fn protect() {
    let before = fs::read_to_string(OWN_SCORE).unwrap_or_default();
    // A service manager may have protected it more.
    let protected = before
        .trim()
        .parse()
        .is_ok_and(|score: i32| score <= OOM_SCORE);
    match (!protected)
        .then(|| fs::write(OWN_SCORE, OOM_SCORE.to_string()))
        .transpose()
    {
        Ok(_) => tracing::debug!(score = OOM_SCORE, "out of memory, others go first"),
        Err(error) => tracing::warn!(%error, "protect the daemon from lack of memory failed"),
    }
    let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(group) = own_group(&table, Path::new("/sys/fs/cgroup")) {
        let low = group.join("memory.low");
        // The root has none, and a service manager's own setting may be larger.
        let before = fs::read_to_string(&low).unwrap_or_default();
        if is_less(&before) && fs::write(&low, LOW_BYTES.to_string()).is_ok() {
            tracing::debug!(group = %group.display(), "some memory stays with the daemon");
        }
    }
}

/// Whether less is kept so far; `max` is all of it.
fn is_less(before: &str) -> bool {
    before
        .trim()
        .parse()
        .is_ok_and(|bytes: u64| bytes < LOW_BYTES)
}

/// This process's group of control groups v2, as `/proc/self/cgroup` names it.
fn own_group(table: &str, root: &Path) -> Option<PathBuf> {
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Outside of what can be seen from here: the group of somebody else's namespace.
    (!path.starts_with("..")).then(|| root.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_that_of_version_two() {
        let root = Path::new("/sys/fs/cgroup");
        let table = "7:memory:/x\n0::/system.slice/hearth.service\n";
        let group = own_group(table, root).expect("one");
        assert_eq!(group, root.join("system.slice/hearth.service"));
        assert_eq!(own_group("7:memory:/x\n", root), None);
        assert_eq!(own_group("0::/../other\n", root), None);
    }

    #[test]
    fn what_somebody_set_is_not_lowered() {
        assert!(is_less("0\n") && is_less("1048576"));
        for more in ["max\n", "268435456", "", "not a number"] {
            assert!(!is_less(more), "{more:?}");
        }
    }
}
