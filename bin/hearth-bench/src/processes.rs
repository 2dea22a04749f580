//! What `/proc` tells of a process.

use anyhow::Context;
use std::time::Duration;

/// In which Linux tells a process' times, on every machine that Hearth runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used of the processors so far.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; user and system time are the 12th
    // and 13th fields after it.
    let (_, fields) = stat.rsplit_once(')').context("read a process' times")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}
