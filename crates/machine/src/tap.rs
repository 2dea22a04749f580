//! Opening a TAP device of a network namespace.
//!
//! A `/dev/net/tun` descriptor belongs to the network namespace of the thread that opens
//! it. So a thread of its own enters the namespace, opens the device and ends; the
//! daemon's other threads stay where they are. The VM process gets the open descriptor and
//! needs no right on the device.

#![expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sched::CloneFlags;

/// Opens the TAP device `name` of the namespace at `netns`, with the virtio network header
/// in front of every frame, as QEMU wants it. Blocks briefly.
pub(crate) fn open(netns: &Path, name: &str) -> io::Result<OwnedFd> {
    let netns = File::open(netns)?;
    let name = interface_name(name)?;
    std::thread::Builder::new()
        .name("tap-open".to_owned())
        .spawn(move || {
            nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
            attach(name)
        })?
        .join()
        .unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that opens the device panicked",
            ))
        })
}

fn interface_name(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut field = [0; libc::IFNAMSIZ];
    if name.is_empty() || name.len() >= field.len() || name.contains(['\0', '%']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not an interface name",
        ));
    }
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(field)
}

fn attach(name: [libc::c_char; libc::IFNAMSIZ]) -> io::Result<OwnedFd> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: TUNSETIFF reads (and writes back) one ifreq, which lives across the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    nix::errno::Errno::result(result)?;
    Ok(device.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused_before_anything_is_opened() {
        for name in ["", "a-name-that-is-too-long", "tap%d", "a\0b"] {
            assert!(interface_name(name).is_err(), "{name:?}");
        }
        assert!(interface_name("tap0").is_ok());
    }
}
