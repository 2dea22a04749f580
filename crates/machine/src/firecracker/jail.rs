//! How Firecracker is held, and what is where in its root.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hearth_confine::{Cgroups, Confinement, Placed};

use crate::accelerator::kvm;
use crate::launch::{Request, remove};
use crate::{DiskAttachment, Error};

/// The directory for its socket and device states: the only one that it can write to.
pub(super) const OWN_DIR: &str = "/run/vm";
/// The disk. Device states name it, so it is the same for every VM.
pub(super) const DISK: &str = "/dev/disk";
/// Threads beside those of the guest's processors: its main loop and its API.
const OWN_THREADS: u32 = 16;
/// CPU time beside that of the guest's processors, in thousandths of a CPU.
const OWN_CPU_MILLI: u64 = 1000;
/// VMs go before the daemon when the host runs out of memory.
const OOM_SCORE: i16 = 500;
/// What it may write to a file beside the guest's memory, in bytes.
const OWN_FILE_BYTES: u64 = 256 << 20;
const TUN: &str = "/dev/net/tun";

/// A directory of the VM's own in its run directory. Removed when dropped, with all that
/// the VM's process has put into it.
#[derive(Debug)]
pub(super) struct OwnDir(PathBuf);

impl OwnDir {
    /// Where it is in `run_dir`.
    pub(super) fn path(run_dir: &Path) -> PathBuf {
        run_dir.join("firecracker")
    }

    /// Makes it afresh for the user `uid`.
    pub(super) fn make(run_dir: &Path, uid: u32) -> Result<Self, Error> {
        let path = Self::path(run_dir);
        remove_dir(&path);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Error::io("make", &path))?;
        let own = Self(path);
        give(&own.0, uid)?;
        Ok(own)
    }

    /// The directory stays.
    pub(super) fn keep(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        remove_dir(&self.0);
    }
}

/// Removes a directory that may not exist, without following any link in it.
pub(super) fn remove_dir(path: &Path) {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => remove(path),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "removing a directory failed");
        }
    }
}

/// Makes `path` the user's.
pub(super) fn give(path: &Path, uid: u32) -> Result<(), Error> {
    std::os::unix::fs::chown(path, Some(uid), None).map_err(Error::io("give away", path))
}

/// Makes a memory image the daemon's own, and readable by everybody who gets to it: a
/// descriptor of it is opened once more by a VM's user. Who booted the VM that it was saved
/// of may own it, and could write to what is every VM's; a copy may be of a narrower mode.
pub(super) fn show(image: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(image).map_err(Error::io("look at", image))?;
    if !metadata.is_file() {
        return Ok(());
    }
    let daemon = rustix::process::geteuid().as_raw();
    if metadata.uid() != daemon {
        std::os::unix::fs::chown(image, Some(daemon), None).map_err(Error::io("own", image))?;
    }
    let mode = metadata.mode() & 0o7777;
    let shown = (mode | 0o444) & !0o022;
    if mode != shown {
        let shown = fs::Permissions::from_mode(shown);
        fs::set_permissions(image, shown).map_err(Error::io("open up", image))?;
    }
    Ok(())
}

/// Completes the caller's confinement for `program`. What the caller has said stands.
pub(super) fn complete(
    confinement: &Confinement,
    request: &Request<'_>,
    program: &Path,
) -> Result<Confinement, Error> {
    let mut it = confinement.clone();
    it.gid = kvm_group()?.unwrap_or(it.gid);
    it.visible = it.visible.or_else(|| Some(visible(program)));
    let disk = match request.disk {
        DiskAttachment::BlockDevice { path } => path,
        DiskAttachment::NbdSocket { .. } => {
            return Err(Error::Unsupported(
                "Firecracker is given its disk as a block device, not as an NBD socket",
            ));
        }
    };
    it.placed.push(Placed {
        from: disk.clone(),
        at: DISK.into(),
        writable: true,
    });
    it.placed.push(Placed {
        from: OwnDir::path(request.run_dir),
        at: OWN_DIR.into(),
        writable: true,
    });
    it.oom_score_adj = it.oom_score_adj.or(Some(OOM_SCORE));
    let threads = request.shape.vcpus + OWN_THREADS;
    it.rlimits.threads = it.rlimits.threads.min(threads.into());
    // It writes the guest's memory itself.
    it.rlimits.file_bytes = request.shape.memory_bytes + OWN_FILE_BYTES;
    if it.cgroup_name.is_some() {
        // Where the host cannot enforce one, there is none.
        let groups = Cgroups::detect();
        let pids = groups.version("pids").map(|_| threads);
        it.pids_max = it.pids_max.or(pids);
        let cpu_milli = u64::from(request.shape.vcpus) * 1000 + OWN_CPU_MILLI;
        let quota = groups.version("cpu").map(|_| cpu_milli);
        it.cpu_quota_milli = it.cpu_quota_milli.or(quota);
    }
    Ok(it)
}

/// Whether the KVM device can be used in the jail: by its group, or by everybody.
///
/// # Errors
/// [`Error::Io`].
pub fn check_device() -> Result<(), Error> {
    kvm_group().map(drop)
}

/// The group whose members may use KVM; `None` where everybody may.
fn kvm_group() -> Result<Option<u32>, Error> {
    let metadata = fs::metadata(kvm::DEVICE).map_err(Error::io("look at", kvm::DEVICE))?;
    match (
        metadata.mode() & 0o006,
        metadata.mode() & 0o060,
        metadata.gid(),
    ) {
        (0o006, _, _) => Ok(None),
        (_, 0o060, group) if group != 0 => Ok(Some(group)),
        _ => Err(Error::Io {
            action: "use, as a group that is not root's,",
            path: kvm::DEVICE.into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        }),
    }
}

/// The program with its libraries, of which a static one has none, and its devices.
fn visible(program: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]
        .map(PathBuf::from)
        .into();
    files.extend(["/etc/ld.so.cache", kvm::DEVICE, TUN].map(PathBuf::from));
    files.push(program.to_owned());
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_shown_to_all_and_left_to_none() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::write(&image, "memory").unwrap();
        for (before, after) in [
            (0o600, 0o644),
            (0o666, 0o644),
            (0o640, 0o644),
            (0o444, 0o444),
        ] {
            fs::set_permissions(&image, fs::Permissions::from_mode(before)).unwrap();
            show(&image).unwrap();
            let found = fs::metadata(&image).unwrap();
            assert_eq!(found.mode() & 0o777, after, "{before:o}");
            assert_eq!(found.uid(), rustix::process::geteuid().as_raw());
        }
        assert!(show(&dir.path().join("none")).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/shadow", &link).unwrap();
        let before = fs::metadata("/etc/shadow").map(|it| it.mode()).ok();
        show(&link).unwrap();
        assert_eq!(fs::metadata("/etc/shadow").map(|it| it.mode()).ok(), before);
    }
}
