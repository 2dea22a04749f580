//! Freezing a file system, so that a copy of its disk is consistent.

#![expect(unsafe_code, reason = "file systems are frozen through ioctls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `FIFREEZE` and `FITHAW`, `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;

/// Writes all that is due to the disk and holds back further writes (their
/// callers wait), or lets them through again. Doing either twice is no error.
/// Needs CAP_SYS_ADMIN.
pub fn set_frozen(mount_point: &str, frozen: bool) -> io::Result<()> {
    let directory = File::open(mount_point)?;
    let request = if frozen { FIFREEZE } else { FITHAW };
    // SAFETY: both requests ignore their argument.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), request, 0) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match (error.raw_os_error(), frozen) {
        (Some(libc::EBUSY), true) | (Some(libc::EINVAL), false) => Ok(()),
        _ => Err(error),
    }
}
