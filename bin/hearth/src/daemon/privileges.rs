//! Privileges that the daemon, and what it starts, can never need.
//!
//! They are given up before the process has a second thread, as capabilities belong to
//! threads: from there on every thread and every program is without them, also one that is
//! started as root, for the bounding set goes with it.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What loads code into the kernel or reaches past it, sets clocks, restarts the machine,
/// or changes the host's own security policy and accounting. Modules that a network rule
/// needs are loaded by the kernel itself.
const NEEDLESS: CapabilitySet = CapabilitySet::SYS_MODULE
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::SYS_TIME)
    .union(CapabilitySet::SYS_PACCT)
    .union(CapabilitySet::SYS_TTY_CONFIG)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::LINUX_IMMUTABLE)
    .union(CapabilitySet::LEASE)
    .union(CapabilitySet::AUDIT_CONTROL)
    .union(CapabilitySet::AUDIT_READ)
    .union(CapabilitySet::MAC_OVERRIDE)
    .union(CapabilitySet::MAC_ADMIN)
    .union(CapabilitySet::WAKE_ALARM)
    .union(CapabilitySet::BLOCK_SUSPEND)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::BPF);

/// Gives them up, for this thread and all that come from it. That this fails is told by a
/// line on standard error, and keeps nothing from running: it is a second line.
pub fn give_up_needless() {
    if let Err(error) = give_up(NEEDLESS) {
        eprintln!("hearth: some privileges that are not needed could not be given up: {error}");
    }
}

fn give_up(needless: CapabilitySet) -> rustix::io::Result<()> {
    for capability in needless.iter() {
        // A kernel that does not know it says so here.
        if matches!(capability_is_in_bounding_set(capability), Ok(true)) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let has = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: has.effective.difference(needless),
            permitted: has.permitted.difference(needless),
            inheritable: has.inheritable.difference(needless),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// `CapEff` and `CapBnd` of a thread or process, from its status in `/proc`.
    fn sets(status: &str) -> [u64; 2] {
        ["CapEff:", "CapBnd:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.expect("there").trim(), 16).expect("hexadecimal")
        })
    }

    #[test]
    fn what_is_given_up_is_gone_for_programs_too_and_the_rest_stays() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        // In a thread of its own, as this is for good.
        let work = std::thread::spawn(|| {
            let read = || std::fs::read_to_string("/proc/thread-self/status").expect("read");
            let before = sets(&read());
            give_up(NEEDLESS).expect("given up");
            let child = Command::new("cat").arg("/proc/self/status").output();
            let child = String::from_utf8(child.expect("cat").stdout).expect("text");
            (before, sets(&read()), sets(&child))
        });
        let (before, after, child) = work.join().expect("joined");
        for (before, after) in before.iter().zip(after) {
            assert_eq!(after, before & !NEEDLESS.bits());
        }
        assert_eq!(child, after, "a program of root's gets none of it back");
    }
}
