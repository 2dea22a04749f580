//! Stage two: what a Linux system expects to be there before programs run.

use std::ffi::CStr;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

use crate::sys::interfaces::Interfaces;

/// The guest's address on its only link; the same in every sandbox.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
const PREFIX: u8 = 30;
/// Open files that a program may have: what it gets, and how far it may go.
const OPEN_FILES: (u64, u64) = (65_536, 1_048_576);

/// Brings the system up. A part that fails is logged and left out: an agent
/// that can be asked what is wrong is worth more than none.
pub fn bring_up() {
    let nosuid = MountFlags::NOSUID;
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounts: [(&str, &str, &str, MountFlags, Option<&CStr>); 8] = [
        ("proc", "/proc", "proc", strict, None),
        ("sysfs", "/sys", "sysfs", strict, None),
        ("devtmpfs", "/dev", "devtmpfs", nosuid, None),
        (
            "devpts",
            "/dev/pts",
            "devpts",
            nosuid | MountFlags::NOEXEC,
            Some(c"gid=5,mode=620,ptmxmode=666"),
        ),
        (
            "tmpfs",
            "/dev/shm",
            "tmpfs",
            nosuid | MountFlags::NODEV,
            Some(c"mode=1777"),
        ),
        (
            "tmpfs",
            "/run",
            "tmpfs",
            nosuid | MountFlags::NODEV,
            Some(c"mode=755"),
        ),
        (
            "tmpfs",
            "/run/lock",
            "tmpfs",
            strict,
            Some(c"mode=1777,size=5m"),
        ),
        // Every command enters a group as it starts; without the option that
        // waits for a grace period of the kernel.
        (
            "cgroup2",
            "/sys/fs/cgroup",
            "cgroup2",
            strict,
            Some(c"favordynmods"),
        ),
    ];
    let mounted = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for (source, target, kind, flags, data) in mounts {
        if !is_mounted(&mounted, target) {
            report(target, mount_on(source, target, kind, flags, data));
        }
    }
    report("standard streams", device_links());
    report("device files", super::devices::make_all());
    report("loopback", loopback());
    report("network", network());
    report("limits", limits());
    report("watch limits", watch_limits());
    report("name servers", name_servers());
    report(
        "oom score",
        std::fs::write("/proc/self/oom_score_adj", "-1000"),
    );
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// Says on the console that the agent listens; exactly once per boot.
pub fn announce_ready() {
    let console = std::fs::File::options().write(true).open("/dev/console");
    report(
        "console",
        console.and_then(|mut console| console.write_all(b"envd: ready\n")),
    );
}

fn report(part: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(part, %error, "set up a part of the system failed");
    }
}

fn is_mounted(mounts: &str, target: &str) -> bool {
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(target))
}

fn mount_on(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    data: Option<&CStr>,
) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    Ok(mount(source, target, kind, flags, data)?)
}

/// `/dev/stdin` and friends, which devtmpfs does not make.
fn device_links() -> io::Result<()> {
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ];
    for (target, link) in links {
        match std::os::unix::fs::symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn loopback() -> io::Result<()> {
    Interfaces::open()?.set_up("lo")
}

fn network() -> io::Result<()> {
    // A guest without a link is one in a test.
    if !Path::new("/sys/class/net/eth0").exists() {
        return Ok(());
    }
    let interfaces = Interfaces::open()?;
    interfaces.set_address("eth0", GUEST_ADDRESS, PREFIX)?;
    interfaces.set_up("eth0")?;
    interfaces.add_default_route(GATEWAY)
}

/// The kernel's defaults are for desktops of one user.
fn watch_limits() -> io::Result<()> {
    std::fs::write("/proc/sys/fs/inotify/max_user_instances", "1024")?;
    std::fs::write("/proc/sys/fs/inotify/max_user_watches", "524288")
}

/// A template that names no server gets the node's.
fn name_servers() -> io::Result<()> {
    const FILE: &str = "/etc/resolv.conf";
    match std::fs::metadata(FILE) {
        Ok(metadata) if metadata.len() > 0 => Ok(()),
        _ => std::fs::write(FILE, "nameserver 192.0.2.1\n"),
    }
}

fn limits() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let (current, maximum) = OPEN_FILES;
    let limit = Rlimit {
        current: Some(current),
        maximum: Some(maximum),
    };
    setrlimit(Resource::Nofile, limit)?;
    // Core files of crashing user programs would fill the disk.
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: None,
        },
    )?;
    Ok(())
}
