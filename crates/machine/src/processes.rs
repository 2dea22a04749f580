//! Finding VM processes that nobody has a record of.
//!
//! A daemon that is killed between starting a VM and writing it down leaves a process
//! whose command line names its run directory. The next daemon ends it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::process::{Pid, PidfdFlags, Signal};

/// Ids of the VM processes (known by their program's name) with an argument that contains
/// `marker`, such as a run directory with a slash at its end.
#[must_use]
pub fn naming(marker: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_vm(*pid) && command_line_names(*pid, marker.as_bytes()))
        .collect()
}

/// Kills the VM process `pid` without waiting for its end; fine when there is none.
///
/// # Errors
/// When the kernel refuses the signal.
pub fn end(pid: u32) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let killed = rustix::process::pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
        // Looked at again under the pidfd, lest the id has been reused by another program.
        if !is_vm(pid.as_raw_nonzero().get().unsigned_abs()) {
            return Ok(());
        }
        rustix::process::pidfd_send_signal(pidfd, Signal::KILL)
    });
    match killed {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_vm(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| {
        let name = program.file_name().unwrap_or_default().as_bytes();
        name.starts_with(b"qemu-system-") || name.starts_with(b"firecracker")
    })
}

fn command_line_names(pid: u32, marker: &[u8]) -> bool {
    !marker.is_empty()
        && fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(marker.len()).any(|part| part == marker))
}
