//! Descriptors that outlive an `execve`, on both of its sides.

#![expect(unsafe_code, reason = "a descriptor's number is taken for the thing")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// Above what programs expect for themselves.
const FIRST: RawFd = 10;

/// Lets a descriptor stay open in the next program.
pub fn keep<F: AsFd>(fd: &F) -> io::Result<()> {
    let flags = fcntl_getfd(fd)?;
    Ok(fcntl_setfd(fd, flags - FdFlags::CLOEXEC)?)
}

/// A second descriptor of the same file that stays open in the next program and is
/// never closed in this one. Its number is all that is left of it.
pub fn bequeath(fd: BorrowedFd<'_>) -> io::Result<RawFd> {
    let copy = fcntl_dupfd_cloexec(fd, FIRST)?;
    keep(&copy)?;
    Ok(copy.into_raw_fd())
}

/// Takes over a descriptor that the program before left under this number, and
/// closes it on the next `execve` again. Each number may be taken once.
///
/// # Errors
///
/// When there is none, or it is one of the standard streams.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only asks the kernel for flags, which fails for a closed number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed)?;
    if flags.contains(FdFlags::CLOEXEC) {
        // Somebody in this program has opened it; it was not inherited.
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it was open without close-on-exec, which in this program only
    // inherited descriptors are, and now is marked, so that nobody takes it twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
