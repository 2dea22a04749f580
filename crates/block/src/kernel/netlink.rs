//! Block devices that outlive the process which attached them.
//!
//! The kernel is given the connection by message instead of by a thread that stays inside
//! an `ioctl`. When the server goes away, with its process or without, requests wait for a
//! set time; a successor finds the device by an identifier that the kernel keeps with it,
//! and hands over a new connection ([`LastingDevice::find`], [`LastingDevice::reconnect`]).
//! What was asked for and not answered is asked for again then.
//!
//! Nobody takes such a device away by accident: dropping the value leaves the device.
//!
//! Source: `include/uapi/linux/nbd-netlink.h` and `drivers/block/nbd.c` of Linux.

mod message;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{KernelError, READY, SECTOR_BYTES, SYSFS, agree, failed};
use crate::nbd::client::Export;
use message::{Answer, Message};

/// How long the kernel takes at most to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest message that is read, in bytes.
const MESSAGE_BYTES: usize = 32 << 10;
/// The longest identifier, in bytes.
const MAX_IDENTIFIER: usize = 100;

/// A block device that the kernel reads from a server, whoever runs that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastingDevice {
    index: u32,
    identifier: String,
}

impl LastingDevice {
    /// Makes the export of the server at `socket` a device, the first that is free. Blocks
    /// until it can be read.
    ///
    /// * `identifier`: 1 to 100 letters, digits and `-`, by which a successor finds it.
    /// * `patience`: how long requests wait for a server that went away, in whole
    ///   seconds; then they fail, and what uses the device with them.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`], [`KernelError::NoneFree`], [`KernelError::InUse`] when
    /// a device of this identifier is there, or what the server or the kernel says.
    pub fn attach(
        socket: &Path,
        export: &str,
        identifier: &str,
        patience: Duration,
    ) -> Result<Self, KernelError> {
        check(identifier)?;
        if let Some(there) = Self::find(identifier)? {
            return Err(KernelError::InUse(there.path()));
        }
        let mut kernel = Kernel::open()?;
        let (stream, export) = connect(socket, export)?;
        let request = message::connect(&stream_of(&stream, export, identifier, patience));
        let answer = kernel.ask(&request).map_err(|error| match error {
            // A kernel that may not make devices, or has no number left.
            Errno::BUSY | Errno::NOSPC => KernelError::NoneFree,
            error => failed("give the kernel the connection")(error),
        })?;
        let index = answer.ok_or_else(|| {
            failed("learn the device's number")(io::Error::from(io::ErrorKind::InvalidData))
        })?;
        let device = Self {
            index,
            identifier: identifier.to_owned(),
        };
        match device.ready(export) {
            Ok(()) => Ok(device),
            Err(error) => {
                if let Err(error) = device.clone().detach() {
                    tracing::warn!(device = %device.path().display(), %error, "detach a block device failed");
                }
                Err(error)
            }
        }
    }

    /// The device of this identifier, whichever process attached it.
    ///
    /// # Errors
    /// When the identifier is none, or the kernel's devices cannot be listed.
    pub fn find(identifier: &str) -> Result<Option<Self>, KernelError> {
        check(identifier)?;
        let devices = match super::devices() {
            Ok(devices) => devices,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("list block devices")(error)),
        };
        let found = devices
            .into_iter()
            .find(|index| backend(*index).as_deref() == Some(identifier));
        Ok(found.map(|index| Self {
            index,
            identifier: identifier.to_owned(),
        }))
    }

    /// Hands the kernel a new connection in place of one that broke. What waits goes on.
    /// A device whose connection is whole keeps that, and the new one is closed.
    ///
    /// # Errors
    /// [`KernelError::NotNbd`] when the device is no longer this one, or what the server or
    /// the kernel says.
    pub fn reconnect(
        &self,
        socket: &Path,
        export: &str,
        patience: Duration,
    ) -> Result<(), KernelError> {
        if backend(self.index).as_deref() != Some(self.identifier.as_str()) {
            return Err(KernelError::NotNbd(self.path()));
        }
        let mut kernel = Kernel::open()?;
        let (stream, export) = connect(socket, export)?;
        let sent = stream_of(&stream, export, &self.identifier, patience);
        let request = message::reconfigure(self.index, &sent);
        kernel
            .ask(&request)
            .map(drop)
            .map_err(failed("give the kernel a new connection"))
    }

    /// The device, as in `/dev/nbd0`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(self.name())
    }

    /// Gives the device back, and fails what is asked of it from now on. Fine when it is
    /// gone already.
    ///
    /// # Errors
    /// What the kernel says, or [`KernelError::NotReady`] when it does not let go.
    pub fn detach(self) -> Result<(), KernelError> {
        if backend(self.index).as_deref() != Some(self.identifier.as_str()) {
            return Ok(());
        }
        match Kernel::open()?.ask(&message::disconnect(self.index)) {
            Ok(_) | Err(Errno::INVAL | Errno::NODEV) => {}
            Err(error) => return Err(failed("disconnect the device")(error)),
        }
        let gone = || !self.state().join("pid").exists() && backend(self.index).is_none();
        self.wait(gone)
    }

    /// Waits until the kernel has the device's size, before which it reads as empty.
    fn ready(&self, export: Export) -> Result<(), KernelError> {
        let sectors = (export.size_bytes / SECTOR_BYTES).to_string();
        let size = self.state().join("size");
        self.wait(|| {
            std::fs::read_to_string(&size).is_ok_and(|found| found.trim() == sectors)
                && self.path().exists()
        })
    }

    fn wait(&self, done: impl Fn() -> bool) -> Result<(), KernelError> {
        let deadline = Instant::now() + READY;
        while !done() {
            if Instant::now() > deadline {
                return Err(KernelError::NotReady(self.path()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn name(&self) -> String {
        format!("nbd{}", self.index)
    }

    fn state(&self) -> PathBuf {
        Path::new(SYSFS).join(self.name())
    }
}

/// Whether this host's kernel makes such devices.
///
/// # Errors
/// [`KernelError::Unsupported`], or what the kernel says.
pub fn available() -> Result<(), KernelError> {
    Kernel::open().map(drop)
}

fn check(identifier: &str) -> Result<(), KernelError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if (1..=MAX_IDENTIFIER).contains(&identifier.len()) && identifier.bytes().all(good) {
        return Ok(());
    }
    Err(failed("use the device's identifier")(io::Error::from(
        io::ErrorKind::InvalidInput,
    )))
}

/// The identifier that the kernel keeps with a device; none where it has no connection.
fn backend(index: u32) -> Option<String> {
    let path = Path::new(SYSFS).join(format!("nbd{index}/backend"));
    let found = std::fs::read_to_string(path).ok()?;
    Some(found.trim_end_matches('\n').to_owned())
}

fn connect(socket: &Path, export: &str) -> Result<(UnixStream, Export), KernelError> {
    let mut stream = UnixStream::connect(socket).map_err(failed("connect to the server"))?;
    let export = agree(&mut stream, export).map_err(failed("agree with the server"))?;
    Ok((stream, export))
}

fn stream_of<'a>(
    stream: &UnixStream,
    export: Export,
    identifier: &'a str,
    patience: Duration,
) -> message::Connection<'a> {
    message::Connection {
        // A descriptor that is open is not negative.
        socket: stream.as_raw_fd().unsigned_abs(),
        size_bytes: export.size_bytes,
        sector_bytes: SECTOR_BYTES,
        flags: export.flags.into(),
        patience_s: patience.as_secs().max(1),
        identifier,
    }
}

/// The kernel's NBD driver, by generic netlink.
struct Kernel {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Kernel {
    fn open() -> Result<Self, KernelError> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::GENERIC),
        )
        .map_err(failed("open a netlink socket"))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))
            .and_then(|()| {
                let limit = rustix::net::sockopt::Timeout::Recv;
                rustix::net::sockopt::set_socket_timeout(&socket, limit, Some(ANSWER))
            })
            .map_err(failed("set up a netlink socket"))?;
        let mut kernel = Self {
            socket,
            family: message::CONTROL_FAMILY,
            sequence: 0,
        };
        let family = kernel
            .ask(&message::find_family())
            .map_err(|error| match error {
                Errno::NOENT => KernelError::Unsupported,
                error => failed("ask for the kernel's network block devices")(error),
            })?;
        let family = family.and_then(|it| u16::try_from(it).ok());
        kernel.family = family.ok_or(KernelError::Unsupported)?;
        Ok(kernel)
    }

    /// Sends a request and waits until it is done; returns the number that was told: of
    /// the family, or of the device.
    fn ask(&mut self, request: &Message) -> Result<Option<u32>, Errno> {
        self.sequence += 1;
        let bytes = request.encode(self.family, self.sequence);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut told = None;
        let mut buffer = vec![0; MESSAGE_BYTES];
        loop {
            let (length, _) =
                match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                    Err(Errno::INTR) => continue,
                    result => result?,
                };
            for answer in message::answers(&buffer[..length], self.sequence) {
                match answer? {
                    Answer::Done => return Ok(told),
                    Answer::Number(number) => told = Some(number),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_devices_is_told_from_one_with() {
        let there = Path::new(SYSFS).join("nbd0").exists();
        match available() {
            Ok(()) => assert!(there),
            Err(KernelError::Unsupported) => assert!(!there),
            // Another network namespace than the first is not answered.
            Err(error) => assert!(there, "{error}"),
        }
    }

    #[test]
    fn identifiers_are_plain() {
        for good in ["a", "sandbox-1", &"x".repeat(100)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\n", "../x", &"x".repeat(101)] {
            assert!(check(bad).is_err(), "{bad:?}");
            assert!(LastingDevice::find(bad).is_err(), "{bad:?}");
        }
        assert_eq!(LastingDevice::find("no-such-device").unwrap(), None);
    }
}
