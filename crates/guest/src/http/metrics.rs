//! `GET /metrics`: how busy the guest is. Cheap enough to be asked every
//! second: three small kernel files and one system call.

use hearth_util::LockExt as _;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

const MIB: u64 = 1024 * 1024;

/// One answer. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Metrics {
    /// Unix time in seconds.
    pub ts: u64,
    pub cpu_count: u64,
    /// Percent of all processors since the last question (since boot at the
    /// first), to two digits.
    pub cpu_used_pct: f64,
    pub mem_total: u64,
    pub mem_used: u64,
    pub mem_cache: u64,
    pub disk_used: u64,
    pub disk_total: u64,
    pub mem_total_mib: u64,
    pub mem_used_mib: u64,
}

/// Remembers the processor times of the last question.
#[derive(Debug, Default)]
pub struct Meter(Mutex<CpuTimes>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

impl Meter {
    pub fn read(&self) -> std::io::Result<Metrics> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let disk = rustix::fs::statvfs("/")?;
        let now = cpu_times(&stat);
        let before = {
            let mut last = self.0.lock_unpoisoned();
            std::mem::replace(&mut *last, now)
        };
        let total = field(&memory, "MemTotal:");
        // Cache is what the kernel can give back; it counts as cache, not as used.
        let cache = field(&memory, "Cached:")
            + field(&memory, "Buffers:")
            + field(&memory, "SReclaimable:");
        let used = total
            .saturating_sub(field(&memory, "MemFree:"))
            .saturating_sub(cache);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Metrics {
            ts: since.map_or(0, |since| since.as_secs()),
            cpu_count: cpu_count(&stat),
            cpu_used_pct: used_percent(before, now),
            mem_total: total,
            mem_used: used,
            mem_cache: cache,
            disk_used: (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            disk_total: disk.f_blocks * disk.f_frsize,
            mem_total_mib: total / MIB,
            mem_used_mib: used / MIB,
        })
    }
}

/// The sums of the first line: user, nice, system, idle, iowait, irq, softirq,
/// steal (guest times are in user already).
fn cpu_times(stat: &str) -> CpuTimes {
    let first = stat.lines().next().unwrap_or("");
    let times: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|time| time.parse().ok())
        .collect();
    let total = times.iter().sum();
    let idle: u64 = times.iter().skip(3).take(2).sum();
    CpuTimes {
        busy: total - idle,
        total,
    }
}

fn cpu_count(stat: &str) -> u64 {
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    stat.lines().filter(is_cpu).count() as u64
}

fn used_percent(before: CpuTimes, now: CpuTimes) -> f64 {
    let total = now.total.saturating_sub(before.total);
    if total == 0 {
        return 0.0;
    }
    let busy = now.busy.saturating_sub(before.busy);
    let percent = busy as f64 * 100.0 / total as f64;
    (percent.min(100.0) * 100.0).round() / 100.0
}

/// A field of /proc/meminfo, in bytes.
fn field(memory: &str, name: &str) -> u64 {
    memory
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_percent() {
        let stat = "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2\ncpu1 1 2\nintr 5\n";
        let before = cpu_times(stat);
        assert_eq!(
            before,
            CpuTimes {
                busy: 200,
                total: 1000
            }
        );
        assert_eq!(cpu_count(stat), 2);
        let now = cpu_times("cpu  133 0 100 767 100 0 0 0 0 0\n");
        assert_eq!(used_percent(before, now), 33.0);
        assert_eq!(used_percent(now, now), 0.0);
        assert_eq!(used_percent(now, before), 0.0);
    }

    #[test]
    fn a_real_machine_makes_sense() {
        let meter = Meter::default();
        let metrics = meter.read().unwrap();
        assert!(metrics.cpu_count >= 1 && (0.0..=100.0).contains(&metrics.cpu_used_pct));
        assert!(metrics.mem_total > 0 && metrics.mem_used <= metrics.mem_total);
        assert!(metrics.disk_used <= metrics.disk_total);
    }
}
