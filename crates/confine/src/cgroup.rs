//! Control groups: one per confined process, below a parent `hearth` in every hierarchy.
//!
//! Version 2 is used when its root offers a controller; what it does not offer is looked
//! for among the version 1 hierarchies. A host may mix both, so the choice is made for
//! each controller. Nothing is cached: mounts are read from `/proc/self/mountinfo` when a
//! [`Cgroups`] is made, and groups are found again by name after a daemon's restart.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Error;

/// Name of the group that holds all of ours.
const PARENT: &str = "hearth";
/// Length of the CPU accounting period in microseconds (the kernel's default).
const CPU_PERIOD_US: u64 = 100_000;
/// How long a group whose last process has just ended may stay busy.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a group may use. `None` means no limit of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// Memory in bytes, page cache that the process brings in included.
    pub(crate) memory_bytes: Option<u64>,
    /// CPU time in thousandths of one CPU: 1500 is one and a half CPUs.
    pub(crate) cpu_milli: Option<u64>,
    /// Share of the CPUs where there is not enough for all, 1 to 10000.
    pub(crate) cpu_weight: Option<u32>,
    /// Number of processes and threads.
    pub(crate) pids: Option<u32>,
}

impl Limits {
    pub(crate) fn wanted(&self) -> impl Iterator<Item = Controller> {
        [
            self.memory_bytes.map(|_| Controller::Memory),
            self.cpu_milli
                .or(self.cpu_weight.map(u64::from))
                .map(|_| Controller::Cpu),
            self.pids.map(|_| Controller::Pids),
        ]
        .into_iter()
        .flatten()
    }
}

/// Which interface a controller is driven through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// A hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// The control group hierarchies of this host.
#[derive(Clone, Debug)]
pub struct Cgroups {
    mounts: BTreeMap<Controller, (CgroupVersion, PathBuf)>,
}

/// A group that has been made; its processes join through the open files.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// `cgroup.procs` of the group in every hierarchy it exists in.
    pub(crate) procs: Vec<(PathBuf, File)>,
}

impl Group {
    /// Moves the process `pid` into the group.
    pub(crate) fn add(self, pid: u32) -> Result<(), Error> {
        for (path, mut file) in self.procs {
            let moved = file.write_all(pid.to_string().as_bytes());
            moved.map_err(|source| Error::Cgroup { path, source })?;
        }
        Ok(())
    }
}

impl Cgroups {
    /// Finds the controllers that this host offers.
    #[must_use]
    pub fn detect() -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::from_mountinfo(&mountinfo, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    pub(crate) fn from_mountinfo(
        mountinfo: &str,
        v2_controllers: impl Fn(&Path) -> String,
    ) -> Self {
        let mut mounts = BTreeMap::new();
        for line in mountinfo.lines() {
            // "36 35 98:0 /root /mount/point rw,... [optional fields] - type source options"
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = before.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut after = after.split(' ');
            let (kind, options) = (after.next().unwrap_or(""), after.nth(1).unwrap_or(""));
            for controller in Controller::ALL {
                let name = controller.name();
                if kind == "cgroup2" && v2_controllers(&point).split_whitespace().any(|c| c == name)
                {
                    mounts.insert(controller, (CgroupVersion::V2, point.clone()));
                } else if kind == "cgroup" && options.split(',').any(|option| option == name) {
                    mounts
                        .entry(controller)
                        .or_insert((CgroupVersion::V1, point.clone()));
                }
            }
        }
        Self { mounts }
    }

    /// Version through which `memory`, `cpu` or `pids` is available, if it is.
    #[must_use]
    pub fn version(&self, controller: &str) -> Option<CgroupVersion> {
        self.mounts
            .iter()
            .find(|(c, _)| c.name() == controller)
            .map(|(_, (version, _))| *version)
    }

    /// The same with one controller somewhere else.
    #[cfg(test)]
    pub(crate) fn with_mount(
        mut self,
        controller: &str,
        version: CgroupVersion,
        root: &Path,
    ) -> Self {
        let found = Controller::ALL.into_iter().find(|c| c.name() == controller);
        let controller = found.expect("a controller");
        self.mounts.insert(controller, (version, root.to_owned()));
        self
    }

    /// Makes the group `name` with its limits. A left-over group of that name must have
    /// no process; it is taken over.
    pub(crate) fn create(&self, name: &str, limits: &Limits) -> Result<Group, Error> {
        check_name(name)?;
        let mut directories: Vec<PathBuf> = Vec::new();
        let made = self.create_in(name, limits, &mut directories);
        if made.is_err() {
            for directory in directories {
                let _ = fs::remove_dir(directory);
            }
        }
        made
    }

    fn create_in(
        &self,
        name: &str,
        limits: &Limits,
        directories: &mut Vec<PathBuf>,
    ) -> Result<Group, Error> {
        for controller in limits.wanted() {
            let (version, root) = self.mounts.get(&controller).ok_or(Error::NoController {
                controller: controller.name(),
            })?;
            let parent = root.join(PARENT);
            make_directory(&parent)?;
            if *version == CgroupVersion::V2 {
                for directory in [root.as_path(), parent.as_path()] {
                    write_value(
                        &directory.join("cgroup.subtree_control"),
                        &format!("+{}", controller.name()),
                    )?;
                }
            }
            let directory = parent.join(name);
            make_directory(&directory)?;
            if !directories.contains(&directory) {
                directories.push(directory.clone());
            }
            apply(controller, *version, &directory, limits)?;
        }
        let procs = directories
            .iter()
            .map(|directory| {
                let path = directory.join("cgroup.procs");
                match OpenOptions::new().write(true).open(&path) {
                    Ok(file) => Ok((path, file)),
                    Err(source) => Err(Error::Cgroup { path, source }),
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Group { procs })
    }

    /// Ends every process in the group `name` and removes it from every hierarchy; one
    /// that does not exist is fine. Blocks for at most two seconds while the kernel
    /// still finishes off its processes. Once this has returned without an error,
    /// nothing that was in the group runs any more: not a thread whose process's first
    /// thread has ended, nor a process that nobody knows of.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when a process is still in it.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        for (version, root) in self.mounts.values() {
            let path = root.join(PARENT).join(name);
            loop {
                end_members(*version, &path);
                match fs::remove_dir(&path) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error)
                        if error.kind() == io::ErrorKind::ResourceBusy
                            && Instant::now() < deadline =>
                    {
                        // The kernel has no event for this on version 1.
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(source) => return Err(Error::Cgroup { path, source }),
                }
            }
        }
        Ok(())
    }

    /// Removes the parent of all groups where no group is left; elsewhere it stays.
    pub fn remove_parent(&self) {
        for (_, root) in self.mounts.values() {
            // Refused by the kernel while there are groups, which is as it should be.
            let _ = fs::remove_dir(root.join(PARENT));
        }
    }

    /// Names of the groups that exist, for finding left-overs.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .mounts
            .values()
            .filter_map(|(_, root)| fs::read_dir(root.join(PARENT)).ok())
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Whether the process `pid` is in the group `name` of any hierarchy, which it is for
/// life: it has no way to another. Where this host has no memory controller there are
/// no groups, and every process counts as a member.
#[must_use]
pub fn is_member(name: &str, pid: u32) -> bool {
    // In this order: every start of a VM asks, and the table of mounts is long.
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| names_group(&text, name))
        || Cgroups::detect()
            .version(Controller::Memory.name())
            .is_none()
}

/// Whether a line of `/proc/PID/cgroup`, `7:memory:/hearth/NAME`, says so. What is in
/// front of it depends on where the reader stands.
fn names_group(text: &str, name: &str) -> bool {
    let end = format!("/{PARENT}/{name}");
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path.ends_with(&end))
}

/// Kills what is in a group. A process that was just forked is met in the next round.
fn end_members(version: CgroupVersion, group: &Path) {
    if version == CgroupVersion::V2 && fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Version 1, or a kernel before 5.14. Zombies whose threads go on are listed, too,
    // and the signal reaches these.
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        let pid = rustix::process::Pid::from_raw(pid);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Removes the group `name`: [`Cgroups::remove`] on this host's hierarchies.
///
/// # Errors
/// As [`Cgroups::remove`].
pub fn remove_cgroup(name: &str) -> Result<(), Error> {
    Cgroups::detect().remove(name)
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let good = (1..=100).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if good {
        Ok(())
    } else {
        Err(Error::Invalid(format!("control group name {name:?}")))
    }
}

fn apply(
    controller: Controller,
    version: CgroupVersion,
    directory: &Path,
    limits: &Limits,
) -> Result<(), Error> {
    match controller {
        Controller::Memory => {
            limit_memory(version, directory, limits.memory_bytes.unwrap_or_default())
        }
        Controller::Cpu => {
            if let Some(weight) = limits.cpu_weight {
                weigh(version, directory, weight)?;
            }
            match limits.cpu_milli {
                Some(milli) => limit_cpu(version, directory, milli),
                None => Ok(()),
            }
        }
        Controller::Pids => write_number(directory, "pids.max", limits.pids.unwrap_or(0).into()),
    }
}

/// Memory, and swap of the same size beside it, where the kernel counts swap.
fn limit_memory(version: CgroupVersion, directory: &Path, bytes: u64) -> Result<(), Error> {
    let (memory, swap, swap_bytes) = match version {
        CgroupVersion::V2 => ("memory.max", "memory.swap.max", bytes),
        // Both together.
        CgroupVersion::V1 => (
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            bytes.saturating_mul(2),
        ),
    };
    let counted = directory.join(swap).exists();
    if counted && version == CgroupVersion::V1 {
        // Both together may not be below memory alone: a group that was left over may have
        // too little for what comes, and for a new one this is refused.
        let _ = write_number(directory, swap, swap_bytes);
    }
    write_number(directory, memory, bytes)?;
    if counted {
        write_number(directory, swap, swap_bytes)?;
    }
    Ok(())
}

fn limit_cpu(version: CgroupVersion, directory: &Path, milli: u64) -> Result<(), Error> {
    let quota = (milli * CPU_PERIOD_US / 1000).max(1000);
    if version == CgroupVersion::V2 {
        let both = format!("{quota} {CPU_PERIOD_US}");
        return write_value(&directory.join("cpu.max"), &both);
    }
    write_number(directory, "cpu.cfs_period_us", CPU_PERIOD_US)?;
    match write_number(directory, "cpu.cfs_quota_us", quota) {
        // More than a group above has. That one's limit holds.
        Err(Error::Cgroup { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// Sets a group's share of the CPUs beside its siblings; 100 is that of one which says
/// nothing.
fn weigh(version: CgroupVersion, directory: &Path, weight: u32) -> Result<(), Error> {
    match version {
        CgroupVersion::V2 => write_number(directory, "cpu.weight", weight.into()),
        CgroupVersion::V1 => write_number(directory, "cpu.shares", u64::from(weight) * 1024 / 100),
    }
}

fn write_number(directory: &Path, file: &str, value: u64) -> Result<(), Error> {
    write_value(&directory.join(file), &value.to_string())
}

/// Makes a group, unless it is there.
fn make_directory(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::Cgroup {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_value(path: &Path, value: &str) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| Error::Cgroup {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests;
