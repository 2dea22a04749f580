//! TAP devices: the one place that speaks to `/dev/net/tun`.
//!
//! A slot's TAP is persistent and has an owner, so that an unprivileged VM
//! process inside the slot's namespace can attach to it, and nobody else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::error::{Error, Result};
use crate::netns;

/// The kernel's TUN/TAP control device.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// Makes a persistent TAP in the calling thread's namespace that `owner` may open.
pub(crate) fn create_persistent(name: &str, owner: u32) -> Result<()> {
    let queue = attach(name, false).map_err(Error::io(format!("create TAP {name}")))?;
    set(&queue, libc::TUNSETOWNER, owner.into())
        .and_then(|()| set(&queue, libc::TUNSETPERSIST, 1))
        .map_err(Error::io(format!("configure TAP {name}")))
}

/// Makes `owner` the one who may open the persistent TAP `name` in the calling thread's
/// namespace, unless a process is attached to it: then the answer is `false`.
pub(crate) fn hand_over(name: &str, owner: u32) -> Result<bool> {
    match attach(name, false) {
        Ok(queue) => set(&queue, libc::TUNSETOWNER, owner.into())
            .map(|()| true)
            .map_err(Error::io(format!("give TAP {name} to its next owner"))),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) => Err(Error::io(format!("open TAP {name}"))(error)),
    }
}

/// Opens TAP `name` in the namespace at `netns`: each read and write is one
/// Ethernet frame, preceded by a `virtio_net_hdr` when `vnet_header` is set.
/// A TAP that does not exist is made and lives as long as the descriptor.
///
/// A VM process that may not open `/dev/net/tun` itself can inherit this.
pub fn open_queue(netns: &Path, name: &str, vnet_header: bool) -> Result<OwnedFd> {
    let name = name.to_owned();
    let action = format!("open TAP {name} in {}", netns.display());
    netns::run_in(netns, move || attach(&name, vnet_header))?
        .map(OwnedFd::from)
        .map_err(Error::io(action))
}

fn attach(name: &str, vnet_header: bool) -> io::Result<File> {
    let queue = OpenOptions::new().read(true).write(true).open(TUN_DEVICE)?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if vnet_header {
        flags |= libc::IFF_VNET_HDR;
    }
    set_interface(&queue, name, flags)?;
    Ok(queue)
}

#[expect(unsafe_code, reason = "TUN/TAP is configured by ioctl only")]
fn set_interface(queue: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    let flags =
        libc::c_short::try_from(flags).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: `ifreq` is plain data for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call; the
    // name is terminated because it is shorter than the zeroed array.
    let outcome = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[expect(unsafe_code, reason = "TUN/TAP is configured by ioctl only")]
fn set(queue: &File, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the requests used here (TUNSETOWNER, TUNSETPERSIST) take their
    // argument by value, so no memory is accessed.
    let outcome = unsafe { libc::ioctl(queue.as_raw_fd(), request, value) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
