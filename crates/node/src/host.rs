//! How the machine is, for lists of nodes: what the kernel tells below `/proc`. Whatever
//! cannot be read is nothing; nobody decides by it.

use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

/// How the machine is at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostReport {
    /// Of all processors together, since the report before this one; 0 to 100.
    pub cpu_percent: u32,
    pub cpu_count: u32,
    pub huge_pages: HugePages,
    /// The file system that sandboxes are on.
    pub disks: Vec<Disk>,
}

/// Huge pages of the default size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HugePages {
    pub total: u64,
    pub used: u64,
    pub reserved: u64,
    pub size_bytes: u64,
}

/// A file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub mount_point: String,
    pub device: String,
    pub filesystem_type: String,
    pub used_bytes: u64,
    pub total_bytes: u64,
}

/// The machine's processor, as the kernel names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub cpu_family: String,
    pub cpu_model: String,
    pub cpu_model_name: String,
    pub cpu_architecture: String,
}

/// Time that processors spent, in the kernel's ticks since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// Reports, and remembers the processors' ticks of the one before.
#[derive(Debug, Default)]
pub(crate) struct Sampler(Mutex<Ticks>);

impl Sampler {
    /// How the machine is, with the disk that holds `state_dir`.
    pub(crate) fn report(&self, state_dir: &Path) -> HostReport {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let now = ticks(&read("/proc/stat"));
        let before = {
            let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *last, now)
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        HostReport {
            cpu_percent: percent(before, now),
            cpu_count: u32::try_from(processors).unwrap_or(u32::MAX),
            huge_pages: huge_pages(&read("/proc/meminfo")),
            disks: disk(state_dir, &read("/proc/self/mountinfo"))
                .into_iter()
                .collect(),
        }
    }
}

/// What the machine is. Read once: the kernel looks at every processor for it.
pub(crate) fn machine() -> &'static Machine {
    static MACHINE: LazyLock<Machine> =
        LazyLock::new(|| machine_of(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()));
    &MACHINE
}

fn machine_of(cpuinfo: &str) -> Machine {
    // The first processor's: all are of one kind.
    let field = |wanted: &[&str]| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(name, _)| wanted.contains(&name.trim()));
        found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    Machine {
        // The names of x86, then those of Arm.
        cpu_family: field(&["cpu family", "CPU architecture"]),
        cpu_model: field(&["model", "CPU part"]),
        cpu_model_name: field(&["model name", "Model"]),
        cpu_architecture: std::env::consts::ARCH.to_owned(),
    }
}

/// The line of all processors in `/proc/stat`: user, nice, system, idle, iowait, irq,
/// softirq, steal. Guests' time is part of user's.
fn ticks(stat: &str) -> Ticks {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let numbers: Vec<u64> = line
        .unwrap_or_default()
        .split_ascii_whitespace()
        .take(8)
        .filter_map(|number| number.parse().ok())
        .collect();
    let all = numbers.iter().sum();
    let idle: u64 = numbers.iter().skip(3).take(2).sum();
    Ticks {
        busy: all - idle,
        all,
    }
}

fn percent(before: Ticks, now: Ticks) -> u32 {
    let all = now.all.saturating_sub(before.all).max(1);
    let busy = now.busy.saturating_sub(before.busy).min(all);
    u32::try_from(u128::from(busy) * 100 / u128::from(all)).unwrap_or(0)
}

fn huge_pages(meminfo: &str) -> HugePages {
    let field = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().split(' ').next());
        number.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let total = field("HugePages_Total:");
    HugePages {
        total,
        used: total.saturating_sub(field("HugePages_Free:")),
        reserved: field("HugePages_Rsvd:"),
        size_bytes: field("Hugepagesize:").saturating_mul(1024),
    }
}

fn disk(path: &Path, mountinfo: &str) -> Option<Disk> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let (total, free) = (stat.f_blocks, stat.f_bfree);
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let path = std::fs::canonicalize(path).ok()?;
    let mount = mount_of(&path, mountinfo).unwrap_or_default();
    Some(Disk {
        used_bytes: bytes(total.saturating_sub(free)),
        total_bytes: bytes(total),
        ..mount
    })
}

/// The mount that a path is below: the longest, and of those the last, which covers the
/// others. See `proc_pid_mountinfo(5)`.
fn mount_of(path: &Path, mountinfo: &str) -> Option<Disk> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (place, file_system) = line.split_once(" - ")?;
        let mount_point = unescape(place.split(' ').nth(4)?);
        let mut words = file_system.split(' ');
        Some(Disk {
            filesystem_type: words.next()?.to_owned(),
            device: unescape(words.next()?),
            mount_point,
            ..Disk::default()
        })
    });
    mounts
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.len())
}

/// Space, tab, line feed and backslash stand there as octal numbers.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part
            .get(..3)
            .and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match number {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_busy_between_two_reports() {
        let before = ticks("cpu  100 0 50 800 50 0 0 0 70 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n");
        assert_eq!(
            before,
            Ticks {
                busy: 150,
                all: 1000
            }
        );
        let now = ticks("cpu  160 0 65 820 55 0 0 0 90 0\n");
        assert_eq!(percent(before, now), 75);
        assert_eq!(percent(now, now), 0);
        assert_eq!(percent(now, before), 0, "counters that went back");
        assert_eq!(ticks("garbage"), Ticks::default());
    }

    #[test]
    fn huge_pages_are_counted() {
        let text = "MemTotal: 1 kB\nHugePages_Total:      12\nHugePages_Free:        5\n\
                    HugePages_Rsvd:        2\nHugepagesize:       2048 kB\n";
        let expected = HugePages {
            total: 12,
            used: 7,
            reserved: 2,
            size_bytes: 2 << 20,
        };
        assert_eq!(huge_pages(text), expected);
        assert_eq!(huge_pages(""), HugePages::default());
    }

    #[test]
    fn a_path_is_on_the_innermost_mount() {
        let text = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                    30 22 8:2 / /var/lib rw - xfs /dev/sdb rw\n\
                    31 22 8:3 / /var/lib\\040x rw - btrfs /dev/a\\134b rw\n\
                    32 22 8:4 / /var/lib rw - tmpfs over rw\n";
        let of = |path: &str| mount_of(Path::new(path), text).expect("a mount");
        assert_eq!(of("/etc").device, "/dev/sda1");
        assert_eq!(of("/var/lib/hearth").filesystem_type, "tmpfs");
        assert_eq!(of("/var/library").mount_point, "/");
        let spaced = of("/var/lib x/y");
        assert_eq!(spaced.mount_point, "/var/lib x");
        assert_eq!(spaced.device, "/dev/a\\b");
        assert_eq!(mount_of(Path::new("/x"), "nonsense"), None);
    }

    #[test]
    fn processors_are_named_as_the_kernel_does() {
        let x86 = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Some CPU\n\n\
                   processor\t: 1\ncpu family\t: 7\n";
        let machine = machine_of(x86);
        assert_eq!(
            (machine.cpu_family.as_str(), machine.cpu_model.as_str()),
            ("6", "85")
        );
        assert_eq!(machine.cpu_model_name, "Some CPU");
        assert_eq!(machine.cpu_architecture, std::env::consts::ARCH);
    }

    #[test]
    fn this_machine_is_reported() {
        let sampler = Sampler::default();
        let report = sampler.report(Path::new("/tmp"));
        assert!(report.cpu_count > 0 && report.cpu_percent <= 100);
        let disk = &report.disks[0];
        assert!(disk.total_bytes >= disk.used_bytes && disk.total_bytes > 0);
        assert!(disk.mount_point.starts_with('/') && !disk.filesystem_type.is_empty());
    }
}
