//! Whether one more sandbox fits, as a pure decision over measured facts.

/// What is true of the host and the node at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub sandboxes: usize,
    /// Sandboxes that are starting: their memory is not yet visible as used.
    pub starting: usize,
    pub memory_available_bytes: u64,
    pub disk_available_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub max_sandboxes: usize,
    pub memory_reserve_bytes: u64,
    pub disk_reserve_bytes: u64,
}

/// Private memory, in bytes, that a sandbox is expected to take soon after its
/// start: QEMU itself, its translation buffer, and the pages that a shell and a
/// small program write. The rest of a guest's memory is shared with its build.
pub(crate) const EXPECTED_PRIVATE_BYTES: u64 = 128 << 20;

/// Why the node takes no further sandbox, as a sentence for the caller.
pub(crate) fn refuse(facts: Facts, limits: Limits) -> Option<String> {
    if facts.sandboxes >= limits.max_sandboxes {
        return Some(format!(
            "the node runs {} sandboxes, its limit",
            limits.max_sandboxes
        ));
    }
    let starting = u64::try_from(facts.starting)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let expected = EXPECTED_PRIVATE_BYTES.saturating_mul(starting);
    if facts.memory_available_bytes < limits.memory_reserve_bytes.saturating_add(expected) {
        return Some("the node is out of memory".to_owned());
    }
    if facts.disk_available_bytes < limits.disk_reserve_bytes {
        return Some("the node is out of disk space".to_owned());
    }
    None
}

/// `MemAvailable` and `MemTotal` of `/proc/meminfo`, in bytes.
pub(crate) fn host_memory_bytes() -> std::io::Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    field("MemAvailable:")
        .zip(field("MemTotal:"))
        .ok_or_else(|| std::io::Error::other("/proc/meminfo lacks MemAvailable or MemTotal"))
}

/// Bytes that this process may still write below `path`.
pub(crate) fn disk_available_bytes(path: &std::path::Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        max_sandboxes: 10,
        memory_reserve_bytes: 1 << 30,
        disk_reserve_bytes: 1 << 20,
    };

    proptest! {
        #[test]
        fn what_is_admitted_leaves_the_reserves(
            sandboxes in 0usize..20, starting in 0usize..20,
            memory in 0u64..8 << 30, disk in 0u64..4 << 20,
        ) {
            let facts = Facts {
                sandboxes, starting, memory_available_bytes: memory, disk_available_bytes: disk,
            };
            if refuse(facts, LIMITS).is_none() {
                prop_assert!(sandboxes < LIMITS.max_sandboxes);
                let expected = EXPECTED_PRIVATE_BYTES * (starting as u64 + 1);
                prop_assert!(memory - expected >= LIMITS.memory_reserve_bytes);
                prop_assert!(disk >= LIMITS.disk_reserve_bytes);
            }
        }
    }

    #[test]
    fn a_roomy_host_admits() {
        let facts = Facts {
            sandboxes: 9,
            starting: 0,
            memory_available_bytes: 2 << 30,
            disk_available_bytes: 1 << 30,
        };
        assert_eq!(refuse(facts, LIMITS), None);
        assert!(
            refuse(
                Facts {
                    sandboxes: 10,
                    ..facts
                },
                LIMITS
            )
            .is_some()
        );
    }
}
