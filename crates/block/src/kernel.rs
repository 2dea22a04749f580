//! What is served over NBD as a block device of this host, `/dev/nbdN`.
//!
//! The kernel is the client: it takes over a connection after the handshake. It
//! holds the device for as long as a thread of ours is inside one `ioctl`, so the
//! device goes when the process does, however it ends.
//!
//! [`netlink`] is the other way, by which a device outlives the process.
//!
//! Source: `Documentation/admin-guide/blockdev/nbd.rst` and `include/uapi/linux/nbd.h`
//! of Linux.

#![expect(unsafe_code, reason = "NBD's ioctls have no safe wrapper")]

pub mod netlink;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, NoArg, Opcode, ioctl, opcode};

use crate::nbd::client::{self, Export};

const SYSFS: &str = "/sys/block";
/// The kernel's group of ioctls for NBD.
const GROUP: u8 = 0xab;
const SET_SOCK: Opcode = opcode::none(GROUP, 0);
const SET_BLKSIZE: Opcode = opcode::none(GROUP, 1);
const DO_IT: Opcode = opcode::none(GROUP, 3);
const CLEAR_SOCK: Opcode = opcode::none(GROUP, 4);
const SET_SIZE_BLOCKS: Opcode = opcode::none(GROUP, 7);
const DISCONNECT: Opcode = opcode::none(GROUP, 8);
const SET_FLAGS: Opcode = opcode::none(GROUP, 10);
/// The smallest sector, so that file systems of any block size can be mounted.
const SECTOR_BYTES: u64 = 512;
/// How long the server may take for its part of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the kernel takes at most until the device can be read.
const READY: Duration = Duration::from_secs(10);

/// A device could not be had, or not be given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    #[error(
        "the kernel has no network block devices: load its module with `modprobe nbd`, or use a \
         kernel that has it"
    )]
    Unsupported,
    #[error("all network block devices are in use; `modprobe nbd nbds_max=N` makes more")]
    NoneFree,
    #[error("{} is in use", .0.display())]
    InUse(PathBuf),
    #[error("{} is no network block device", .0.display())]
    NotNbd(PathBuf),
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        source: io::Error,
    },
    #[error("{} did not become readable", .0.display())]
    NotReady(PathBuf),
}

fn failed<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> KernelError {
    move |error| KernelError::Io {
        action,
        source: error.into(),
    }
}

/// A block device that the kernel reads from a server. Dropping it takes it away
/// from whoever uses it; see [`KernelDevice::is_in_use`].
#[derive(Debug)]
pub struct KernelDevice {
    path: PathBuf,
    file: File,
    serving: Option<JoinHandle<Result<(), Errno>>>,
}

impl KernelDevice {
    /// Makes the export of the server at `socket` a device: the given one, or the
    /// first that is free. Blocks until the device can be read.
    pub fn attach(socket: &Path, export: &str, device: Option<&Path>) -> Result<Self, KernelError> {
        if let Some(path) = device {
            return Self::attach_to(path.to_owned(), socket, export);
        }
        let candidates = free_devices()?;
        for path in candidates {
            match Self::attach_to(path, socket, export) {
                // Another process was faster.
                Err(KernelError::InUse(_)) => {}
                result => return result,
            }
        }
        Err(KernelError::NoneFree)
    }

    fn attach_to(path: PathBuf, socket: &Path, export: &str) -> Result<Self, KernelError> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.filter(|name| number(name).is_some());
        let state = Path::new(SYSFS).join(name.ok_or(KernelError::NotNbd(path.clone()))?);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound if !has_devices() => KernelError::Unsupported,
                _ => failed("open the device")(error),
            })?;
        if state.join("pid").exists() {
            return Err(KernelError::InUse(path));
        }
        let mut stream = UnixStream::connect(socket).map_err(failed("connect to the server"))?;
        let export = agree(&mut stream, export).map_err(failed("agree with the server"))?;
        let device = Self {
            file: file.try_clone().map_err(failed("keep the device open"))?,
            path,
            serving: None,
        };
        device.set_up(&stream, export)?;
        device.serve(file, stream, &state)
    }

    fn set_up(&self, stream: &UnixStream, export: Export) -> Result<(), KernelError> {
        let socket = usize::try_from(stream.as_raw_fd()).unwrap_or(usize::MAX);
        set::<SET_SOCK>(&self.file, socket).map_err(|error| match error {
            Errno::BUSY => KernelError::InUse(self.path.clone()),
            Errno::NOTTY => KernelError::NotNbd(self.path.clone()),
            error => failed("give the kernel the connection")(error),
        })?;
        let sectors = usize::try_from(export.size_bytes / SECTOR_BYTES).unwrap_or(usize::MAX);
        set::<SET_BLKSIZE>(&self.file, SECTOR_BYTES as usize)
            .and_then(|()| set::<SET_SIZE_BLOCKS>(&self.file, sectors))
            .and_then(|()| set::<SET_FLAGS>(&self.file, usize::from(export.flags)))
            .inspect_err(|_| clear(&self.file))
            .map_err(failed("describe the device to the kernel"))
    }

    /// Leaves a thread inside the kernel, and waits until the device is there.
    fn serve(mut self, file: File, stream: UnixStream, state: &Path) -> Result<Self, KernelError> {
        let serving = std::thread::Builder::new()
            .name("nbd-device".into())
            .spawn(move || {
                let ended = call::<DO_IT>(&file);
                // The connection lives as long as the kernel may use it.
                drop(stream);
                clear(&file);
                ended
            });
        let serving = serving.map_err(|error| {
            clear(&self.file);
            failed("start a thread")(error)
        })?;
        self.serving = Some(serving);
        let deadline = Instant::now() + READY;
        while !state.join("pid").exists() {
            let ended = self.serving.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || Instant::now() > deadline {
                return Err(KernelError::NotReady(self.path.clone()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self)
    }

    /// The device, as in `/dev/nbd0`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the device is mounted, or held by another kernel driver.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let exclusive = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed())
            .open(&self.path);
        exclusive.is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::BUSY))
    }

    /// Whether the kernel still serves the device; it stops when the server ends.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.serving
            .as_ref()
            .is_some_and(|serving| !serving.is_finished())
    }

    /// Gives the device back and waits until the kernel has let go of it.
    pub fn detach(mut self) -> Result<(), KernelError> {
        self.disconnect()
    }

    fn disconnect(&mut self) -> Result<(), KernelError> {
        let Some(serving) = self.serving.take() else {
            return Ok(());
        };
        if !serving.is_finished() {
            call::<DISCONNECT>(&self.file).map_err(failed("disconnect the device"))?;
        }
        match serving.join() {
            // Cut by the server's end: there is no more to give back.
            Ok(Ok(()) | Err(Errno::PIPE | Errno::CONNRESET | Errno::TIMEDOUT)) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(failed("serve the device")(error)),
        }
    }
}

impl Drop for KernelDevice {
    fn drop(&mut self) {
        if let Err(error) = self.disconnect() {
            tracing::warn!(device = %self.path.display(), %error, "a block device stays behind");
        }
    }
}

fn agree(stream: &mut UnixStream, export: &str) -> io::Result<Export> {
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.set_write_timeout(Some(HANDSHAKE))?;
    let export = client::negotiate(stream, export)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(export)
}

/// The number of a device's name, as in `nbd7`; not of a partition's, `nbd7p1`.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix("nbd")?.parse().ok()
}

fn has_devices() -> bool {
    devices().is_ok_and(|devices| !devices.is_empty())
}

/// Numbers of all devices that the kernel has, the lowest first.
fn devices() -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(SYSFS)? {
        found.extend(entry?.file_name().to_str().and_then(number));
    }
    found.sort_unstable();
    Ok(found)
}

fn free_devices() -> Result<Vec<PathBuf>, KernelError> {
    let devices = devices().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KernelError::Unsupported,
        _ => failed("list block devices")(error),
    })?;
    if devices.is_empty() {
        return Err(KernelError::Unsupported);
    }
    let free = devices.into_iter().map(|number| format!("nbd{number}"));
    let free = free.filter(|name| !Path::new(SYSFS).join(name).join("pid").exists());
    Ok(free.map(|name| Path::new("/dev").join(name)).collect())
}

fn set<const CODE: Opcode>(device: &File, value: usize) -> Result<(), Errno> {
    // SAFETY: every code passed here takes an integer, and the kernel keeps no
    // reference into this process but to the socket, which it holds itself.
    unsafe { ioctl(device, IntegerSetter::<CODE>::new_usize(value)) }
}

/// Makes the kernel forget the connection, if it has one.
fn clear(device: &File) {
    let _ = call::<CLEAR_SOCK>(device);
}

fn call<const CODE: Opcode>(device: &File) -> Result<(), Errno> {
    // SAFETY: every code passed here takes no argument.
    unsafe { ioctl(device, NoArg::<CODE>::new()) }
}
