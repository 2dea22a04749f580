//! The two system calls that nobody wraps: a file's handle, and a file by its handle.
#![expect(
    unsafe_code,
    reason = "name_to_handle_at and open_by_handle_at have no safe wrapper"
)]

use rustix::fs::OFlags;
use rustix::io::Errno;
use std::ffi::{c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most bytes of a handle that are taken. What ext4, XFS, btrfs and tmpfs give is
/// shorter.
pub(crate) const LONGEST: usize = 38;

/// What the kernel names a file by, for as long as the file exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelHandle {
    pub(crate) kind: i32,
    bytes: [u8; LONGEST],
    length: usize,
}

impl KernelHandle {
    /// `None` when there are more bytes than a handle may have.
    pub(crate) fn new(kind: i32, data: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self {
            kind,
            bytes,
            length: data.len(),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: c_int,
    f_handle: [u8; LONGEST],
}

/// The handle of an open file; `O_PATH` is enough.
///
/// # Errors
/// `OPNOTSUPP` where the file system has none, or longer ones.
pub(crate) fn handle_of(file: BorrowedFd<'_>) -> Result<KernelHandle, Errno> {
    let mut raw = RawHandle {
        handle_bytes: u32::try_from(LONGEST).unwrap_or(0),
        handle_type: 0,
        f_handle: [0; LONGEST],
    };
    let mut mount: c_int = 0;
    const EMPTY: *const c_char = c"".as_ptr();
    // SAFETY: `raw` begins like `struct file_handle` and says how many bytes follow;
    // the kernel writes no more than that. The path is a string with its end, `mount`
    // an integer, and all of them outlive the call.
    let outcome = unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
            EMPTY,
            (&raw mut raw).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if outcome != 0 {
        return Err(match last_error() {
            Errno::OVERFLOW => Errno::OPNOTSUPP,
            error => error,
        });
    }
    let length = usize::try_from(raw.handle_bytes).map_err(|_| Errno::OPNOTSUPP)?;
    let bytes = raw.f_handle.get(..length).ok_or(Errno::OPNOTSUPP)?;
    KernelHandle::new(raw.handle_type, bytes).ok_or(Errno::OPNOTSUPP)
}

/// Opens a file by its handle; `mount` is open on the same file system.
///
/// # Errors
/// `STALE` where there is no such file any more.
pub(crate) fn open(
    mount: BorrowedFd<'_>,
    handle: &KernelHandle,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mut raw = RawHandle {
        handle_bytes: u32::try_from(handle.length).unwrap_or(0),
        handle_type: handle.kind,
        f_handle: handle.bytes,
    };
    let flags = c_int::try_from((flags | OFlags::CLOEXEC).bits()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `raw` begins like `struct file_handle`, says how many bytes follow, and
    // outlives the call.
    let opened =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) };
    if opened < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
