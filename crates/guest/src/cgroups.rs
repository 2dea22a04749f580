//! Control groups for what runs in the guest: commands in one, terminals in
//! another. They keep the agent alive and answering when programs want more
//! memory or time than there is, and let all of them be frozen at once before a
//! snapshot.
//!
//! The agent itself stays in the root group. Where groups cannot be made (on a
//! host, or in a kernel without them) programs run without, and freezing is
//! refused.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

const ROOT: &str = "/sys/fs/cgroup";
/// Memory that programs leave for the agent and the kernel: an eighth, but not
/// more than this.
const MAX_RESERVE_BYTES: u64 = 128 * 1024 * 1024;
/// How long freezing may take. A process in an uninterruptible wait holds it up.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);

/// Which group a program belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Terminal,
    Command,
}

impl Class {
    const ALL: [Self; 2] = [Self::Terminal, Self::Command];

    fn name(self) -> &'static str {
        match self {
            Self::Terminal => "ptys",
            Self::Command => "user",
        }
    }

    /// Share of processor time when there is not enough, of 100 as usual.
    fn cpu_weight(self) -> u32 {
        match self {
            // Somebody is looking at it.
            Self::Terminal => 200,
            Self::Command => 50,
        }
    }
}

/// The groups, with their open `cgroup.procs`.
#[derive(Debug)]
pub struct Cgroups {
    groups: [(Class, PathBuf, File); 2],
}

impl Cgroups {
    /// Makes the groups. Needs cgroup v2 at its usual place.
    pub fn create() -> io::Result<Self> {
        let root = Path::new(ROOT);
        // Either may be missing in a kernel; groups are useful without.
        for controller in ["+memory", "+cpu"] {
            if let Err(error) = std::fs::write(root.join("cgroup.subtree_control"), controller) {
                tracing::warn!(controller, %error, "cgroup controller missing");
            }
        }
        let limit = memory_limit(total_memory()?);
        let make = |class: Class| -> io::Result<_> {
            let path = root.join(class.name());
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let settings = [
                ("memory.max", limit.to_string()),
                ("cpu.weight", class.cpu_weight().to_string()),
            ];
            for (name, value) in settings {
                if let Err(error) = std::fs::write(path.join(name), value) {
                    tracing::warn!(group = class.name(), name, %error, "set control group limit failed");
                }
            }
            let procs = File::options()
                .write(true)
                .open(path.join("cgroup.procs"))?;
            Ok((class, path, procs))
        };
        let [terminal, command] = Class::ALL;
        Ok(Self {
            groups: [make(terminal)?, make(command)?],
        })
    }

    /// What a new process of this class is written to.
    pub fn procs(&self, class: Class) -> Option<BorrowedFd<'_>> {
        let mut groups = self.groups.iter();
        groups
            .find(|(candidate, ..)| *candidate == class)
            .map(|(.., procs)| procs.as_fd())
    }

    /// Stops every process of the groups, or lets them go on. Blocking; returns
    /// when it is so.
    pub fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        for (_, path, _) in &self.groups {
            std::fs::write(path.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        }
        let deadline = Instant::now() + FREEZE_LIMIT;
        for (_, path, _) in &self.groups {
            wait_until(&path.join("cgroup.events"), frozen, deadline)?;
        }
        Ok(())
    }
}

/// Waits for a group to report its state. The kernel announces changes of the
/// file as a priority event.
fn wait_until(events: &Path, frozen: bool, deadline: Instant) -> io::Result<()> {
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    loop {
        let mut file = File::open(events)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        if text.lines().any(|line| line == wanted) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let message = format!("{} did not become '{wanted}'", events.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn memory_limit(total: u64) -> u64 {
    total - (total / 8).min(MAX_RESERVE_BYTES)
}

fn total_memory() -> io::Result<u64> {
    let info = rustix::system::sysinfo();
    Ok(u64::from(info.mem_unit).saturating_mul(info.totalram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_an_eighth_but_bounded() {
        const MIB: u64 = 1024 * 1024;
        assert_eq!(memory_limit(512 * MIB), 448 * MIB);
        assert_eq!(memory_limit(8192 * MIB), 8064 * MIB);
    }
}
