//! Fresh randomness for a restored kernel. Two guests restored from one
//! snapshot have the same generator state; until each is given bytes of its own
//! and made to reseed, they draw the same "random" numbers.

#![expect(unsafe_code, reason = "the random device is fed through ioctls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `RNDADDENTROPY`, `_IOW('R', 0x03, int[2])`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `RNDRESEEDCRNG`, `_IO('R', 0x07)`.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// Bytes that are taken from one request; the kernel's pool holds 32.
pub const MAX_BYTES: usize = 512;

/// `struct rand_pool_info` with room for [`MAX_BYTES`].
#[repr(C)]
struct PoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; MAX_BYTES],
}

/// Credits `bytes` to the kernel's pool and reseeds its generator at once.
/// Needs CAP_SYS_ADMIN. Bytes beyond [`MAX_BYTES`] are ignored.
pub fn feed(bytes: &[u8]) -> io::Result<()> {
    let length = bytes.len().min(MAX_BYTES);
    let mut info = PoolInfo {
        entropy_count: 0,
        buf_size: 0,
        buf: [0; MAX_BYTES],
    };
    info.buf[..length].copy_from_slice(&bytes[..length]);
    // At most MAX_BYTES, so neither conversion can overflow.
    info.buf_size = length as libc::c_int;
    info.entropy_count = info.buf_size * 8;
    let device = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: the first call reads `buf_size` bytes behind the header, all of
    // them inside `info`; the second takes no argument.
    let results = unsafe {
        [
            libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info),
            libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG),
        ]
    };
    if results.iter().any(|result| *result < 0) {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
