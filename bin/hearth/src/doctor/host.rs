//! Checks of the kernel and of what is installed.

use super::Check;
use crate::{
    daemon::engine,
    settings::{EngineChoice, Settings},
};
use hearth_confine::{CgroupVersion, Enforceable, Limit};
use hearth_machine::accelerator::Accelerator;
use std::path::{Path, PathBuf};

/// Programs that Hearth runs, and the Debian package that brings each.
const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("nft", "nftables"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("dpkg", "dpkg"),
    ("depmod", "kmod"),
];

pub(super) fn user() -> Check {
    if rustix::process::geteuid().is_root() {
        Check::ok("user", "root")
    } else {
        let fix = "sudo hearth doctor";
        Check::failed(
            "user",
            "Hearth makes network namespaces and needs to be root",
            fix,
        )
    }
}

pub(super) fn architecture() -> Check {
    match std::env::consts::ARCH {
        "x86_64" => Check::ok("architecture", "x86_64"),
        other => Check::failed(
            "architecture",
            format!("{other} is not supported"),
            "use an x86_64 machine",
        ),
    }
}

/// Which engine runs sandboxes, and whether this host has what it needs; what Firecracker
/// would need is told where it is not chosen, too.
pub(super) async fn engine(settings: &Settings) -> Check {
    const NAME: &str = "engine";
    let node = settings.node.clone();
    let chosen = node.engine == EngineChoice::Firecracker;
    let tried = tokio::task::spawn_blocking(move || {
        let path = std::env::var_os("PATH");
        engine::firecracker(&node, path.as_deref()).map(|engine| engine.to_string())
    });
    match (tried.await, chosen) {
        (Ok(Ok(found)), true) => Check::ok(NAME, found),
        (Ok(Err(missing)), true) => Check::failed(NAME, missing.what, missing.fix),
        (Ok(Ok(found)), false) => {
            let choice = "node.engine = \"firecracker\" would choose";
            Check::ok(NAME, format!("qemu; {choice} {found}"))
        }
        (Ok(Err(_)), false) => Check::ok(NAME, "qemu"),
        (Err(error), _) => Check::failed(
            NAME,
            format!("the check ended abnormally: {error}"),
            "report this",
        ),
    }
}

pub(super) async fn accelerator() -> Check {
    const NAME: &str = "accelerator";
    match tokio::task::spawn_blocking(engine::accelerator).await {
        Ok(Accelerator::Kvm) => Check::ok(NAME, "kvm: a jailed VM runs guest code at full speed"),
        Ok(Accelerator::Tcg { reason }) => Check::warning(
            NAME,
            format!(
                "tcg, about ten times slower than kvm: {reason}. {}",
                crate::daemon::emulation::NOTICE
            ),
            speed_up(Path::new("/dev/kvm").exists()),
        ),
        Err(error) => Check::failed(
            NAME,
            format!("the probe ended abnormally: {error}"),
            "report this",
        ),
    }
}

/// What may help to get KVM instead of emulation.
fn speed_up(device: bool) -> &'static str {
    if device {
        "see whether a security module holds QEMU back (journalctl -k), or use a machine with \
         hardware virtualisation (or nested virtualisation)"
    } else {
        "modprobe kvm_intel or kvm_amd, or use a machine with hardware virtualisation (or nested \
         virtualisation)"
    }
}

pub(super) fn kernel_features() -> Vec<Check> {
    let tun = "/dev/net/tun";
    let device = if Path::new(tun).exists() {
        Check::ok("tap devices", tun)
    } else {
        Check::failed("tap devices", format!("{tun} is missing"), "modprobe tun")
    };
    let namespaces = if Path::new("/proc/self/ns/net").exists() {
        Check::ok("network namespaces", "supported")
    } else {
        let fix = "boot a kernel with CONFIG_NET_NS";
        Check::failed("network namespaces", "the kernel has none", fix)
    };
    vec![device, namespaces, nf_tables()]
}

/// Asks the kernel itself: the `nft` program may be there without the subsystem.
fn nf_tables() -> Check {
    const NAME: &str = "nftables";
    let Some(nft) = find("nft") else {
        return Check::failed(
            NAME,
            "the program nft is missing",
            "apt-get install -y nftables",
        );
    };
    match std::process::Command::new(nft)
        .args(["list", "tables"])
        .output()
    {
        Ok(output) if output.status.success() => Check::ok(NAME, "the kernel answers"),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Check::failed(NAME, why, "modprobe nf_tables")
        }
        Err(error) => Check::failed(NAME, error.to_string(), "apt-get install -y nftables"),
    }
}

pub(super) fn tools(settings: &Settings) -> Vec<Check> {
    let apt = find("apt-get").is_some();
    let qemu = settings.node.engine != EngineChoice::Firecracker;
    TOOLS
        .iter()
        .filter(|(tool, _)| qemu || !tool.starts_with("qemu-system-"))
        .map(|(tool, package)| match find(tool) {
            Some(path) => Check::ok(tool, path.display().to_string()),
            None if apt => {
                Check::failed(tool, "not found", format!("apt-get install -y {package}"))
            }
            None => Check::failed(
                tool,
                "not found",
                format!("install the program {tool} (Debian's package is {package})"),
            ),
        })
        .collect()
}

/// What the jail of a VM process finds, which is started within a limit or not at all.
pub(super) fn cgroups() -> Check {
    const NAME: &str = "cgroups";
    if !rustix::process::geteuid().is_root() {
        return Check::warning(NAME, "only root can try them", "sudo hearth doctor");
    }
    let found = match Enforceable::detect() {
        Ok(found) => found,
        Err(error) => {
            return Check::warning(
                NAME,
                format!("the limits of VM processes could not be tried: {error}"),
                "apt-get install -y coreutils",
            );
        }
    };
    let missing: Vec<String> = found.missing().iter().map(not_enforced).collect();
    let missing = missing.join("; ");
    let mount = "mount -t cgroup2 none /sys/fs/cgroup";
    match found.memory() {
        Some(CgroupVersion::V2) if missing.is_empty() => Check::ok(NAME, "v2"),
        Some(CgroupVersion::V1) if missing.is_empty() => Check::ok(NAME, "v1"),
        Some(_) => Check::warning(
            NAME,
            format!("VM processes have no limit of their {missing}"),
            "use a kernel, or a container, whose control groups can be limited so",
        ),
        None => Check::failed(
            NAME,
            format!(
                "VM processes are started within a limit of memory, and there can be none: {missing}"
            ),
            mount,
        ),
    }
}

/// A limit that does not work, and why.
fn not_enforced((limit, error): &(Limit, hearth_confine::Error)) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{limit} ({error}: {source})"),
        None => format!("{limit} ({error})"),
    }
}

fn find(tool: &str) -> Option<PathBuf> {
    // A root login may lack the system directories in its PATH.
    const SYSTEM: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM.iter().map(PathBuf::from))
        .map(|dir| dir.join(tool))
        .find(|path| path.is_file())
}
