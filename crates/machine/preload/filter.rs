//! The filters of system calls that hold from the end of QEMU's set-up on.
//!
//! QEMU is told to change its root directory (`-chroot`, `-run-with chroot`), which it does
//! as the last step of its set-up: every device is there, no guest code has run (the VM is
//! made stopped), and the main loop comes next. Its call of `chroot` ends here and installs
//! the filters instead, for all of its threads. QEMU ends when the call fails; and without
//! this library the kernel would refuse it, so that nothing runs without the filters.

use core::ffi::{c_char, c_int, c_long};
use core::sync::atomic::{AtomicBool, Ordering};

use super::{
    EFAULT, MAP_PRIVATE, PROT_READ, SYS_MUNMAP, failed_result, getenv, map, set_errno, syscall4,
    two_numbers,
};

/// Names the table: its descriptor and its length in bytes, with a colon between.
const TABLE: &[u8] = b"HEARTH_FILTERS\0";
const SYS_CHDIR: c_long = 80;
const SYS_SECCOMP: c_long = 317;
const SECCOMP_SET_MODE_FILTER: c_long = 1;
const SECCOMP_FILTER_FLAG_TSYNC: c_long = 1;
/// Bytes of an instruction (`struct sock_filter`).
const INSTRUCTION: usize = 8;
/// The kernel's bound of a filter, in instructions.
const LONGEST: u64 = 4096;

/// Whether the filters are in force.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// The kernel's `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const u8,
}

/// `chroot(2)`, which is not made: the last step of QEMU's set-up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chroot(_path: *const c_char) -> c_int {
    // SAFETY: reads the environment and mappings of its own only.
    let result = unsafe { install_all() };
    if result < 0 {
        set_errno(-result);
        return -1;
    }
    INSTALLED.store(true, Ordering::Release);
    0
}

/// `chdir(2)`. The one into the new root, after the filters, is not made either.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chdir(path: *const c_char) -> c_int {
    if INSTALLED.load(Ordering::Acquire) {
        return 0;
    }
    // SAFETY: the caller's string, which the kernel only reads.
    let result = unsafe { syscall4(SYS_CHDIR, path as c_long, 0, 0, 0) };
    if result < 0 {
        set_errno(-result);
        return -1;
    }
    0
}

/// Installs every filter of the table, in its order; 0 or a negative errno.
unsafe fn install_all() -> c_long {
    // SAFETY: libc's own look-up of a NUL-terminated name, whose answer is a
    // NUL-terminated string.
    let numbers = unsafe {
        let text = getenv(TABLE.as_ptr().cast());
        if text.is_null() { None } else { two_numbers(text) }
    };
    let Some((descriptor, size)) = numbers else {
        return -EFAULT;
    };
    // SAFETY: a new mapping, where the kernel likes.
    let table = unsafe { map(0, size, PROT_READ, MAP_PRIVATE, descriptor as c_int, 0) };
    if failed_result(table) {
        return table;
    }
    // SAFETY: the daemon writes `size` bytes into a sealed file, all of which are mapped.
    let result = unsafe { install(core::slice::from_raw_parts(table as *const u8, size)) };
    // SAFETY: the mapping made above, which nothing refers to any more.
    unsafe { syscall4(SYS_MUNMAP, table, size as c_long, 0, 0) };
    result
}

unsafe fn install(mut table: &[u8]) -> c_long {
    if table.is_empty() {
        return -EFAULT;
    }
    while let Some((count, rest)) = table.split_first_chunk::<8>() {
        let count = u64::from_ne_bytes(*count);
        if count == 0 || count > LONGEST {
            return -EFAULT;
        }
        let Some((instructions, rest)) = rest.split_at_checked(count as usize * INSTRUCTION)
        else {
            return -EFAULT;
        };
        let program = Program {
            length: count as u16,
            instructions: instructions.as_ptr(),
        };
        // SAFETY: the kernel reads the program, which has as many instructions as it says.
        let result = unsafe {
            syscall4(
                SYS_SECCOMP,
                SECCOMP_SET_MODE_FILTER,
                SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program as c_long,
                0,
            )
        };
        // A positive result is a thread that has other filters and cannot be given these.
        if result != 0 {
            return if result < 0 { result } else { -EFAULT };
        }
        table = rest;
    }
    if table.is_empty() { 0 } else { -EFAULT }
}
