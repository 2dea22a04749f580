//! How QEMU is held: what the caller left open of its confinement, completed.
//!
//! Who starts a VM says its user, network, control group and memory; what QEMU itself
//! needs, and how much a VM of its shape may take, is the same for all of them.

use std::path::{Path, PathBuf};

use hearth_confine::{Confinement, Enforceable, FileAccess, Limit};

use crate::VmShape;

/// Threads beside those of the guest's processors: QEMU's own few, and its pool for what
/// would block, which has 64 at most.
const OWN_THREADS: u32 = 80;
/// CPU time beside that of the guest's processors, in thousandths of a CPU.
const OWN_CPU_MILLI: u64 = 1000;
/// A processor's share of the host's, where they are not enough.
const CPU_WEIGHT: u32 = 100;
/// VMs go before the daemon when the host runs out of memory.
const OOM_SCORE: i16 = 500;

/// The limits that this host can enforce.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    cpu_time: bool,
    cpu_weight: bool,
    threads: bool,
}

impl Limits {
    /// Tries what is used of the host's control groups. What does not work is told and
    /// left out; but for memory, without whose limit no VM is started.
    pub(super) fn detect() -> Self {
        let found = match Enforceable::detect() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "try the limits of VM processes failed: all are used");
                return Self::ALL;
            }
        };
        for (limit, error) in found.missing() {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(%limit, %error, source, "limiting VM processes is not possible here");
        }
        Self {
            cpu_time: found.has(Limit::CpuTime),
            cpu_weight: found.has(Limit::CpuWeight),
            threads: found.has(Limit::Threads),
        }
    }

    const ALL: Self = Self {
        cpu_time: true,
        cpu_weight: true,
        threads: true,
    };
}

/// Completes `confinement` for `program`: what it sees and may open, and limits. What the
/// caller has said stands.
///
/// * `readable`: files that it may open beside its own.
/// * `reachable`: directories whose sockets it may connect to.
pub(super) fn complete(
    confinement: &Confinement,
    limits: Limits,
    shape: VmShape,
    program: &Path,
    readable: &[PathBuf],
    reachable: &[PathBuf],
) -> Confinement {
    let mut it = confinement.clone();
    let own = program_files(program);
    it.visible = it
        .visible
        .or_else(|| Some([own.as_slice(), reachable].concat()));
    it.files = it.files.or_else(|| {
        Some(FileAccess {
            read: [own.as_slice(), readable].concat(),
            write: Vec::new(),
        })
    });
    it.oom_score_adj = it.oom_score_adj.or(Some(OOM_SCORE));
    let threads = shape.vcpus + OWN_THREADS;
    it.rlimits.threads = it.rlimits.threads.min(threads.into());
    if it.cgroup_name.is_some() {
        let cpu_milli = u64::from(shape.vcpus) * 1000 + OWN_CPU_MILLI;
        it.cpu_quota_milli = it.cpu_quota_milli.or(limits.cpu_time.then_some(cpu_milli));
        let weight = (shape.vcpus * CPU_WEIGHT).clamp(1, 10_000);
        it.cpu_weight = it.cpu_weight.or(limits.cpu_weight.then_some(weight));
        it.pids_max = it.pids_max.or(limits.threads.then_some(threads));
    }
    it
}

/// The program, its libraries and modules, and its firmware. Those of a program below
/// another prefix than `/usr` are there.
fn program_files(program: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]
        .map(PathBuf::from)
        .into();
    files.push("/etc/ld.so.cache".into());
    let usr = Path::new("/usr");
    let prefix = program.parent().and_then(Path::parent).unwrap_or(usr);
    if prefix != usr && prefix != Path::new("/") {
        files.extend(["lib", "lib64"].map(|name| prefix.join(name)));
    }
    for prefix in [usr, prefix] {
        files.extend(["share/qemu", "share/seabios"].map(|name| prefix.join(name)));
    }
    files.push(program.to_owned());
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete_for(vcpus: u32, confinement: &Confinement) -> Confinement {
        let shape = VmShape {
            vcpus,
            memory_bytes: 1 << 30,
        };
        let reachable = ["/run/hearth/sb/x".into()];
        let program = Path::new("/usr/bin/qemu-system-x86_64");
        complete(confinement, Limits::ALL, shape, program, &[], &reachable)
    }

    #[test]
    fn what_the_caller_said_stands() {
        let said = Confinement {
            cgroup_name: Some("x".to_owned()),
            pids_max: Some(7),
            cpu_weight: Some(3),
            oom_score_adj: Some(1),
            visible: Some(vec![]),
            ..Confinement::default()
        };
        let held = complete_for(2, &said);
        assert_eq!((held.pids_max, held.cpu_weight), (Some(7), Some(3)));
        assert_eq!((held.oom_score_adj, held.visible), (Some(1), Some(vec![])));
        assert_eq!(held.cpu_quota_milli, Some(3000));
    }

    #[test]
    fn limits_grow_with_the_vm_and_need_a_group() {
        let group = Confinement {
            cgroup_name: Some("x".to_owned()),
            ..Confinement::default()
        };
        let held = complete_for(64, &group);
        assert_eq!((held.pids_max, held.rlimits.threads), (Some(144), 144));
        assert_eq!(held.cpu_weight, Some(6400));
        let held = complete_for(64, &Confinement::default());
        assert_eq!((held.pids_max, held.cpu_quota_milli), (None, None));
        assert_eq!(held.rlimits.threads, 144);
    }

    #[test]
    fn what_the_host_cannot_enforce_is_left_out() {
        let limits = Limits {
            cpu_time: false,
            ..Limits::ALL
        };
        let group = Confinement {
            cgroup_name: Some("x".to_owned()),
            ..Confinement::default()
        };
        let shape = VmShape {
            vcpus: 2,
            memory_bytes: 1 << 30,
        };
        let held = complete(&group, limits, shape, Path::new("/usr/bin/q"), &[], &[]);
        assert_eq!((held.cpu_quota_milli, held.cpu_weight), (None, Some(200)));
        assert_eq!(held.pids_max, Some(82));
    }

    #[test]
    fn only_the_program_and_its_own_exist() {
        let held = complete_for(1, &Confinement::default());
        let (visible, files) = (held.visible.unwrap(), held.files.unwrap());
        let has = |list: &[PathBuf], path: &str| list.contains(&PathBuf::from(path));
        assert!(has(&visible, "/usr/bin/qemu-system-x86_64"));
        assert!(has(&visible, "/run/hearth/sb/x"));
        assert!(!has(&files.read, "/run/hearth/sb/x"));
        for wide in ["/", "/usr", "/usr/bin", "/usr/local", "/usr/share", "/dev"] {
            assert!(!has(&visible, wide) && !has(&files.read, wide), "{wide}");
        }
        let elsewhere = program_files(Path::new("/opt/qemu/bin/qemu-system-x86_64"));
        assert!(has(&elsewhere, "/opt/qemu/share/qemu"));
        assert!(has(&elsewhere, "/opt/qemu/lib"));
    }
}
