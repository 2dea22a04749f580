//! Stage one: from the initramfs to the root disk.
//!
//! It loads the modules that the disk needs, mounts the disk, and becomes stage
//! two there: the same binary, from a copy in memory, so that the agent does
//! not depend on what the disk holds.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount, mount_move};

const MODULE_ORDER: &str = "/modules.order";
const MODULE_DIRECTORY: &str = "/modules";
const ROOT_DEVICE: &str = "/dev/vda";
const NEW_ROOT: &str = "/newroot";
/// Where stage two lives, seen from the root disk.
pub const AGENT_PATH: &str = "/run/envd/envd";
/// Tells the binary that it is stage two.
pub const STAGE_TWO_ARGUMENT: &str = "--stage-two";
/// How long the root disk may take to appear after its driver is loaded.
const DISK_PATIENCE: Duration = Duration::from_secs(10);
const DISK_POLL: Duration = Duration::from_millis(5);

/// Whether this process is stage one.
pub fn is_stage_one() -> bool {
    rustix::process::getpid().is_init() && Path::new(MODULE_ORDER).exists()
}

/// Runs stage one. Returns only on failure.
pub fn run() -> io::Error {
    match switch() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn switch() -> io::Result<std::convert::Infallible> {
    for directory in ["/dev", "/proc", "/sys", NEW_ROOT] {
        make_directory(directory)?;
    }
    step(
        "mount /dev",
        mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, None),
    )?;
    step(
        "mount /proc",
        mount("proc", "/proc", "proc", MountFlags::empty(), None),
    )?;
    super::modules::load_all(Path::new(MODULE_ORDER), Path::new(MODULE_DIRECTORY))?;
    wait_for(Path::new(ROOT_DEVICE))?;
    step(
        "mount the root disk",
        mount(ROOT_DEVICE, NEW_ROOT, "ext4", MountFlags::NOATIME, None),
    )?;
    for directory in ["/dev", "/proc", "/sys", "/run"] {
        make_directory(&format!("{NEW_ROOT}{directory}"))?;
    }
    let run = format!("{NEW_ROOT}/run");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    step(
        "mount /run",
        mount("tmpfs", run.as_str(), "tmpfs", flags, Some(c"mode=755")),
    )?;
    copy_agent()?;
    step(
        "move /dev",
        mount_move("/dev", format!("{NEW_ROOT}/dev").as_str()),
    )?;
    step(
        "move /proc",
        mount_move("/proc", format!("{NEW_ROOT}/proc").as_str()),
    )?;
    empty_initramfs();
    step("enter the root disk", rustix::process::chdir(NEW_ROOT))?;
    step("move the root disk", mount_move(".", "/"))?;
    step("change root", rustix::process::chroot("."))?;
    step("enter the root", rustix::process::chdir("/"))?;
    execute()
}

fn step<T>(what: &str, result: Result<T, rustix::io::Errno>) -> io::Result<T> {
    result.map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

fn make_directory(path: &str) -> io::Result<()> {
    std::fs::create_dir_all(path)
        .map_err(|error| io::Error::new(error.kind(), format!("make {path}: {error}")))
}

fn wait_for(device: &Path) -> io::Result<()> {
    let deadline = Instant::now() + DISK_PATIENCE;
    while !device.exists() {
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} did not appear", device.display()),
            ));
        }
        std::thread::sleep(DISK_POLL);
    }
    Ok(())
}

fn copy_agent() -> io::Result<()> {
    let target = format!("{NEW_ROOT}{AGENT_PATH}");
    let target = Path::new(&target);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::copy("/proc/self/exe", target)?;
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(0o755))
}

/// Frees the memory of the initramfs' files. Best effort: what stays only costs
/// memory.
fn empty_initramfs() {
    let _ = std::fs::remove_dir_all(MODULE_DIRECTORY);
    let _ = std::fs::remove_file(MODULE_ORDER);
    let _ = std::fs::remove_file("/init");
}

fn execute() -> io::Result<std::convert::Infallible> {
    let path = CString::new(AGENT_PATH)?;
    let error = crate::sys::exec::replace(
        &path,
        &[c"envd", &CString::new(STAGE_TWO_ARGUMENT)?],
        &[
            c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            c"HOME=/root",
        ],
    );
    Err(io::Error::new(
        error.kind(),
        format!("execute {AGENT_PATH}: {error}"),
    ))
}
