//! Descriptors for a child's standard streams. Each is close-on-exec and above
//! 2, so that putting one in place of a standard stream can overwrite none of
//! the others (as PID 1 the agent may start with 0 to 2 closed).

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};

const FIRST_FREE: i32 = 3;

/// A pipe: read end, write end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((above_standard(read)?, above_standard(write)?))
}

/// `/dev/null`, for reading.
pub fn null() -> io::Result<OwnedFd> {
    let fd = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    above_standard(fd)
}

/// A second descriptor of the same file.
pub fn duplicate(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(fd, FIRST_FREE)?)
}

pub(crate) fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    if fd.as_raw_fd() >= FIRST_FREE {
        Ok(fd)
    } else {
        duplicate(&fd)
    }
}
