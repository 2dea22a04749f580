//! The disk of a VM as a block device of the host, for an engine that opens one.
//!
//! The kernel is then the client of the disk's server, in the place of the VM's process.
//! The device outlives the daemon as the VM does, with the guest's requests waiting, and
//! is found again by an identifier: the name of the VM's control group.
//!
//! What the guest has written may still be in the kernel's page cache of the device, which
//! the server knows nothing of: [`HostDevice::settle`] has it written.

use crate::{Error, disk::ServedDisk, names};
use hearth_block::kernel::{KernelError, netlink::LastingDevice};
use std::{
    fs::File,
    io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a guest's requests wait for a server that went away, as QEMU's do. After that
/// they fail, and the guest's file system with them.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often a connection is offered to the kernel, which does not take one before it has
/// seen the end of the former.
const OFFERS: u32 = 40;
/// Between an offer and the look whether it was taken.
const OFFER_PAUSE: Duration = Duration::from_millis(50);

/// A device that is attached, or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    identifier: String,
}

impl HostDevice {
    /// The device of the VM in this control group, whoever attached it.
    pub(crate) fn find(cgroup: &str) -> Option<Self> {
        match LastingDevice::find(cgroup) {
            Ok(found) => found.map(|_| Self::of(cgroup)),
            Err(error) => {
                tracing::error!(cgroup, %error, "look for a VM's block device failed");
                None
            }
        }
    }

    /// That of the VM in this control group, attached or not.
    pub(crate) fn of(cgroup: &str) -> Self {
        Self {
            identifier: cgroup.to_owned(),
        }
    }

    /// Has the kernel take the disk that is served in `run_dir`, for the user `uid` alone,
    /// and returns the device's path.
    pub(crate) async fn attach(&self, run_dir: &Path, uid: u32) -> Result<PathBuf, Error> {
        let (identifier, socket) = (self.identifier.clone(), run_dir.join(names::DISK_SOCKET));
        blocking(move || {
            if let Some(stale) = LastingDevice::find(&identifier)? {
                // Of a VM that ended together with its daemon.
                tracing::warn!(device = %stale.path().display(), identifier, "detach a block device that was left over");
                stale.detach()?;
            }
            let device = LastingDevice::attach(&socket, names::EXPORT, &identifier, PATIENCE)?;
            let path = device.path();
            if let Err(source) = chown(&path, Some(uid), None) {
                device.detach()?;
                let action = "give the device to the VM's user";
                return Err(KernelError::Io { action, source });
            }
            Ok(path)
        })
        .await
    }

    /// Has the kernel go on with a disk that is served anew.
    pub(crate) async fn reconnect(&self, run_dir: &Path, disk: &ServedDisk) -> Result<(), Error> {
        for _ in 0..OFFERS {
            let (identifier, socket) = (self.identifier.clone(), run_dir.join(names::DISK_SOCKET));
            blocking(move || {
                let device = LastingDevice::find(&identifier)?;
                let device = device.ok_or_else(|| missing("find the VM's block device"))?;
                device.reconnect(&socket, names::EXPORT, PATIENCE)
            })
            .await?;
            tokio::time::sleep(OFFER_PAUSE).await;
            // One that the kernel did not take is closed.
            if disk.is_connected() {
                return Ok(());
            }
        }
        Err(Error::AttachDisk(missing("see the kernel take the disk")))
    }

    /// Has all that was written to the device so far reach its server. The server must run.
    pub(crate) async fn settle(&self) -> Result<(), Error> {
        let identifier = self.identifier.clone();
        blocking(move || match LastingDevice::find(&identifier)? {
            Some(device) => settle(&device),
            None => Ok(()),
        })
        .await
    }

    /// Takes the device away, with all that was written where its server runs (`served`).
    /// Whatever uses it must have ended. Fine when there is none.
    pub(crate) async fn release(self, served: bool) {
        let identifier = self.identifier.clone();
        let released = blocking(move || {
            let Some(device) = LastingDevice::find(&identifier)? else {
                return Ok(());
            };
            let settled = if served { settle(&device) } else { Ok(()) };
            if let Err(error) = chown(device.path(), Some(0), None) {
                tracing::warn!(device = %device.path().display(), %error, "take a block device back failed");
            }
            device.detach()?;
            settled
        });
        if let Err(error) = released.await {
            let error = hearth_util::chain(&error);
            tracing::error!(
                device = self.identifier,
                error,
                "detach a VM's block device failed"
            );
        }
    }
}

fn settle(device: &LastingDevice) -> Result<(), KernelError> {
    let synced = File::open(device.path()).and_then(|file| file.sync_all());
    synced.map_err(|source| KernelError::Io {
        action: "write out what the kernel holds of the device",
        source,
    })
}

fn missing(action: &'static str) -> KernelError {
    let source = io::ErrorKind::NotFound.into();
    KernelError::Io { action, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Error::Task)?.map_err(Error::AttachDisk)
}

/// Takes away the block device of a VM that is no more, by the name of its control group.
/// Fine when there is none. Blocks.
pub fn release_device(cgroup: &str) {
    let released = LastingDevice::find(cgroup).and_then(|found| match found {
        Some(device) => {
            tracing::info!(device = %device.path().display(), cgroup, "detached the block device of a VM that has ended");
            let _ = chown(device.path(), Some(0), None);
            device.detach()
        }
        None => Ok(()),
    });
    if let Err(error) = released {
        let error = hearth_util::chain(&error);
        tracing::error!(cgroup, error, "detach a VM's block device failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vm_without_a_device_has_nothing_to_give_back() {
        let none = "hearth-no-such-vm";
        assert_eq!(HostDevice::find(none), None);
        let device = HostDevice::of(none);
        device.settle().await.unwrap();
        device.release(true).await;
        release_device(none);
    }

    #[tokio::test]
    async fn a_disk_that_nobody_serves_is_not_attached() {
        let run_dir = tempfile::tempdir().unwrap();
        let device = HostDevice::of("hearth-no-such-vm");
        let error = device.attach(run_dir.path(), 0).await.unwrap_err();
        assert!(matches!(error, Error::AttachDisk(_)), "{error}");
        assert_eq!(HostDevice::find("hearth-no-such-vm"), None);
    }
}
