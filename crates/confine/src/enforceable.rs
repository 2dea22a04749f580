//! Which limits this host can enforce: each is tried on a process.
//!
//! That a controller is listed says little. Version 2 refuses to pass `cpu` on while a
//! real-time process is somewhere below, and anything where the group above has processes
//! of its own, as in many containers; with group scheduling of real-time processes a new
//! `cpu` group of version 1 takes none of them; and kernels are built without bandwidth
//! control. A limit that is then asked for keeps every program from starting.

use std::fmt;
use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cgroup::{Cgroups, Limits};
use crate::{CgroupVersion, Error};

/// Waits until its input ends, which is as long as it is needed.
const WAITING: &str = "cat";
/// Enough for any program that waits.
const TRIAL_MEMORY_BYTES: u64 = 64 << 20;
const TRIAL_CPU_MILLI: u64 = 1000;
const TRIAL_WEIGHT: u32 = 100;
const TRIAL_PIDS: u32 = 16;

/// A kind of limit that a control group may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`crate::Confinement::memory_limit_bytes`].
    Memory,
    /// [`crate::Confinement::cpu_quota_milli`].
    CpuTime,
    /// [`crate::Confinement::cpu_weight`].
    CpuWeight,
    /// [`crate::Confinement::pids_max`].
    Threads,
}

impl Limit {
    const ALL: [Self; 4] = [Self::Memory, Self::CpuTime, Self::CpuWeight, Self::Threads];

    fn set(self, limits: &mut Limits) {
        match self {
            Self::Memory => limits.memory_bytes = Some(TRIAL_MEMORY_BYTES),
            Self::CpuTime => limits.cpu_milli = Some(TRIAL_CPU_MILLI),
            Self::CpuWeight => limits.cpu_weight = Some(TRIAL_WEIGHT),
            Self::Threads => limits.pids = Some(TRIAL_PIDS),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::CpuTime => "CPU time",
            Self::CpuWeight => "weight among the users of the CPUs",
            Self::Threads => "number of threads",
        })
    }
}

/// What was found.
#[derive(Debug)]
pub struct Enforceable {
    memory: Option<CgroupVersion>,
    missing: Vec<(Limit, Error)>,
}

impl Enforceable {
    /// Tries every kind of limit on a process that does nothing. Blocks for some 10 ms for
    /// each hierarchy, and leaves nothing behind.
    ///
    /// # Errors
    /// When no process could be started to try them on.
    pub fn detect() -> io::Result<Self> {
        Self::of(&Cgroups::detect())
    }

    fn of(groups: &Cgroups) -> io::Result<Self> {
        let mut all = Limits::default();
        for limit in Limit::ALL {
            limit.set(&mut all);
        }
        let mut missing = Vec::new();
        if let Err(together) = hold(groups, &all)? {
            for limit in Limit::ALL {
                let mut one = Limits::default();
                limit.set(&mut one);
                if let Err(error) = hold(groups, &one)? {
                    missing.push((limit, error));
                }
            }
            if missing.is_empty() {
                tracing::warn!(error = %together, "all limits of control groups together do not work, and each alone does");
            }
        }
        Ok(Self {
            memory: groups.version("memory"),
            missing,
        })
    }

    /// Whether this kind of limit works.
    #[must_use]
    pub fn has(&self, limit: Limit) -> bool {
        self.missing.iter().all(|(missing, _)| *missing != limit)
    }

    /// Through which interface memory is limited, where it can be.
    #[must_use]
    pub fn memory(&self) -> Option<CgroupVersion> {
        self.memory.filter(|_| self.has(Limit::Memory))
    }

    /// What does not work, and why.
    #[must_use]
    pub fn missing(&self) -> &[(Limit, Error)] {
        &self.missing
    }
}

/// Holds a process within limits, for a moment.
fn hold(groups: &Cgroups, limits: &Limits) -> io::Result<Result<(), Error>> {
    static TRIALS: AtomicU32 = AtomicU32::new(0);
    let number = TRIALS.fetch_add(1, Ordering::Relaxed);
    let name = format!("trial-{}-{number}", std::process::id());
    let mut process = Waiting::start()?;
    let held = groups
        .create(&name, limits)
        .and_then(|group| group.add(process.0.id()));
    process.end();
    // One that was not made is fine.
    if let Err(error) = groups.remove(&name) {
        tracing::warn!(%error, "remove a control group that was made for a trial");
    }
    Ok(held)
}

/// A process with the daemon's own scheduling, which decides where it may go.
struct Waiting(Child);

impl Waiting {
    fn start() -> io::Result<Self> {
        Command::new(WAITING)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enforceable_is_found_out_by_trying() {
        let groups = Cgroups::detect();
        if !rustix::process::geteuid().is_root() || groups.version("memory").is_none() {
            eprintln!("skipped: needs root and a memory controller");
            return;
        }
        let found = Enforceable::of(&groups).expect("tried");
        assert!(found.has(Limit::Memory), "{found:?}");
        assert_eq!(found.memory(), groups.version("memory"));
        let own = format!("trial-{}-", std::process::id());
        let left = groups.list();
        assert!(left.iter().all(|name| !name.starts_with(&own)), "{left:?}");
    }

    /// A hierarchy that lists everything and has none of the files: a directory.
    #[test]
    fn what_is_listed_and_does_not_work_is_left_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let line = |controller: &str| {
            let point = directory.path().join(controller);
            std::fs::create_dir(&point).expect("made");
            format!(
                "32 30 0:28 / {} rw - cgroup cgroup rw,{controller}\n",
                point.display()
            )
        };
        let table = ["memory", "cpu", "pids"].map(line).concat();
        let groups = Cgroups::from_mountinfo(&table, |_| String::new());
        assert_eq!(groups.version("cpu"), Some(CgroupVersion::V1));
        let found = Enforceable::of(&groups).expect("tried");
        for limit in Limit::ALL {
            assert!(!found.has(limit), "{limit}");
        }
        assert_eq!(found.memory(), None);
        let (limit, error) = &found.missing()[1];
        assert_eq!(*limit, Limit::CpuTime);
        assert!(error.to_string().contains("cpu.cfs_period_us"), "{error}");
    }

    #[test]
    fn one_that_does_not_work_takes_no_other_away() {
        let real = Cgroups::detect();
        if !rustix::process::geteuid().is_root() || real.version("memory").is_none() {
            eprintln!("skipped: needs root and a memory controller");
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let broken = real.with_mount("cpu", CgroupVersion::V1, directory.path());
        let found = Enforceable::of(&broken).expect("tried");
        assert!(found.has(Limit::Memory));
        assert!(!found.has(Limit::CpuTime) && !found.has(Limit::CpuWeight));
    }
}
