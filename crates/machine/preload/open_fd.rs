//! A preloaded library for QEMU that turns `open("/proc/self/fd/N")` into `dup(N)`.
//!
//! QEMU takes nearly everything as an inherited descriptor, but it opens the file
//! behind guest memory by path, and before version 8.2 always for writing. By path
//! the kernel checks the inode's permissions anew, so an unprivileged QEMU could use
//! a memory image only if the image were writable by it, and with that by every other
//! sandbox of the same template. With a plain `dup`, the descriptor that the daemon
//! opened (read-only for a restore) is exactly the right that QEMU gets; a private
//! mapping of it is writable memory all the same.
//!
//! Everything else is passed on to the kernel unchanged. The file is compiled by
//! `build.rs` as a library of its own without the standard library, because it is
//! loaded into somebody else's process: no allocation, no thread-local, no libc call.

#![no_std]

use core::arch::asm;
use core::ffi::{c_char, c_int, c_long};

const AT_FDCWD: c_long = -100;
const F_DUPFD_CLOEXEC: c_long = 1030;
const SYS_FCNTL: c_long = 72;
const SYS_OPENAT: c_long = 257;
const PREFIX: &[u8] = b"/proc/self/fd/";

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here panics; the handler must exist and must not return.
    loop {}
}

/// Raw system call of four arguments; returns the kernel's result (negative errno).
unsafe fn syscall4(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long) -> c_long {
    let result: c_long;
    // SAFETY: the kernel's x86-64 convention: number in rax, arguments in rdi, rsi, rdx
    // and r10; rcx and r11 are clobbered.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// The descriptor number that `path` names, if it is `/proc/self/fd/<number>`.
unsafe fn descriptor(path: *const c_char) -> Option<c_long> {
    let mut at = path.cast::<u8>();
    for expected in PREFIX {
        // SAFETY: `at` walks a NUL-terminated string and stops at the first difference,
        // which a NUL is.
        if unsafe { *at } != *expected {
            return None;
        }
        at = at.wrapping_add(1);
    }
    let mut number: c_long = 0;
    let mut digits = 0;
    loop {
        // SAFETY: as above; the loop ends at the terminating NUL at the latest.
        let byte = unsafe { *at };
        match byte {
            b'0'..=b'9' if digits < 6 => number = number * 10 + c_long::from(byte - b'0'),
            0 if digits > 0 => return Some(number),
            _ => return None,
        }
        digits += 1;
        at = at.wrapping_add(1);
    }
}

unsafe fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller of open(2) passes a valid string; both calls only read it.
    let result = unsafe {
        match descriptor(path) {
            Some(number) => syscall4(SYS_FCNTL, number, F_DUPFD_CLOEXEC, 3, 0),
            None => syscall4(
                SYS_OPENAT,
                AT_FDCWD,
                path as c_long,
                flags.into(),
                mode.into(),
            ),
        }
    };
    if result < 0 {
        // SAFETY: libc's own accessor of the calling thread's errno.
        unsafe { *__errno_location() = -result as c_int };
        return -1;
    }
    result as c_int
}

/// `open(2)` for files of any size. `mode` is variadic in C; on this ABI a variadic
/// integer arrives in the same register as a named one, and the kernel ignores it when
/// `flags` creates nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: forwarded unchanged.
    unsafe { open(path, flags, mode) }
}

/// The checked form that a fortified build calls when there is no mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: forwarded unchanged.
    unsafe { open(path, flags, 0) }
}
