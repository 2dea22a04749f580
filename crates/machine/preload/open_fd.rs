//! A preloaded library for QEMU that turns `open("/proc/self/fd/N")` into `dup(N)`, and
//! `open("/dev/kvm")` into a `dup` of the descriptor that the environment names.
//!
//! QEMU takes nearly everything as an inherited descriptor, but it opens the file
//! behind guest memory by path, and before version 8.2 always for writing. By path
//! the kernel checks the inode's permissions anew, so an unprivileged QEMU could use
//! a memory image only if the image were writable by it, and with that by every other
//! sandbox of the same template. With a plain `dup`, the descriptor that the daemon
//! opened (read-only for a restore) is exactly the right that QEMU gets; a private
//! mapping of it is writable memory all the same.
//!
//! `/dev/kvm` belongs to root and the group `kvm` on most distributions, and the jail has
//! neither. QEMU can be told of another path since version 9.0 only, so its own opening of
//! the device becomes a `dup` of what the daemon has opened.
//!
//! It also completes the guest's memory. QEMU maps one file; a memory that was kept as
//! a difference is that file with pieces of others over it. When QEMU maps exactly the
//! guest's memory privately, the pieces named in a table (a descriptor that the
//! environment names) are mapped over it at once, before anybody has seen the memory.
//! If one cannot be mapped, QEMU's own mapping fails, and with it the start.
//!
//! At the end of QEMU's set-up it installs filters of system calls (`filter.rs`).
//!
//! Everything else is passed on to the kernel unchanged. The file is compiled by
//! `build.rs` as a library of its own without the standard library, because it is
//! loaded into somebody else's process: no allocation, no thread-local, no libc call.

#![no_std]

mod filter;

use core::arch::asm;
use core::ffi::{c_char, c_int, c_long, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

const AT_FDCWD: c_long = -100;
const F_DUPFD_CLOEXEC: c_long = 1030;
const SYS_MMAP: c_long = 9;
const SYS_MUNMAP: c_long = 11;
const SYS_FCNTL: c_long = 72;
const SYS_OPENAT: c_long = 257;
const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const MAP_PRIVATE: c_int = 2;
const MAP_FIXED: c_int = 16;
const MAP_FAILED: *mut c_void = usize::MAX as *mut c_void;
const EFAULT: c_long = 14;
/// Names the table: its descriptor and its length in bytes, with a colon between.
const TABLE: &[u8] = b"HEARTH_MEMORY_PIECES\0";

/// Names the descriptor of the KVM device.
const KVM: &[u8] = b"HEARTH_KVM\0";
const KVM_DEVICE: &[u8] = b"/dev/kvm\0";

/// The table's beginning; `count` pieces follow.
#[repr(C)]
struct Header {
    memory_bytes: u64,
    count: u64,
}

/// A piece of a file that stands over a part of the guest's memory. All but the
/// descriptor in bytes, multiples of a page.
#[repr(C)]
struct Piece {
    descriptor: u64,
    file_offset: u64,
    memory_offset: u64,
    length: u64,
}

/// Whether the pieces are in place; the guest's memory is mapped once.
static COMPLETED: AtomicBool = AtomicBool::new(false);
const PREFIX: &[u8] = b"/proc/self/fd/";

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn getenv(name: *const c_char) -> *const c_char;
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

/// `mmap(2)` as a raw system call; the address, or a negative errno.
unsafe fn map(
    address: usize,
    length: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> c_long {
    let result: c_long;
    // SAFETY: as in `syscall4`, with the fifth and sixth argument in r8 and r9.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_MMAP => result,
            in("rdi") address, in("rsi") length, in("rdx") i64::from(protection),
            in("r10") i64::from(flags), in("r8") i64::from(descriptor), in("r9") offset,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

fn set_errno(number: c_long) {
    // SAFETY: libc's own accessor of the calling thread's errno.
    unsafe { *__errno_location() = number as c_int };
}

fn failed_result(result: c_long) -> bool {
    (-4095..0).contains(&result)
}

/// Maps the pieces over the guest's memory at `start` if the mapping of `length` bytes
/// is that; 0 or a negative errno.
unsafe fn complete(start: usize, length: usize) -> c_long {
    // SAFETY: libc's own look-up of a NUL-terminated name.
    let text = unsafe { getenv(TABLE.as_ptr().cast()) };
    if text.is_null() {
        return 0;
    }
    // SAFETY: `getenv` returned a NUL-terminated string.
    let Some((descriptor, size)) = (unsafe { two_numbers(text) }) else {
        return -EFAULT;
    };
    // SAFETY: a new mapping, where the kernel likes.
    let table = unsafe { map(0, size, PROT_READ, MAP_PRIVATE, descriptor as c_int, 0) };
    if failed_result(table) {
        return table;
    }
    // SAFETY: the daemon writes a table of `size` bytes, a header and whole pieces, into
    // a sealed file; the mapping is page-aligned.
    let result = unsafe {
        let header = &*(table as *const Header);
        let room = size.saturating_sub(size_of::<Header>()) / size_of::<Piece>();
        if header.memory_bytes != length as u64 {
            0
        } else if header.count > room as u64 {
            -EFAULT
        } else {
            let pieces = (table as *const Header).add(1).cast::<Piece>();
            overlay(start, length, core::slice::from_raw_parts(pieces, header.count as usize))
        }
    };
    // SAFETY: the mapping made above, which nothing refers to any more.
    unsafe { syscall4(SYS_MUNMAP, table, size as c_long, 0, 0) };
    result
}

unsafe fn overlay(start: usize, length: usize, pieces: &[Piece]) -> c_long {
    if COMPLETED.swap(true, Ordering::AcqRel) {
        return 0;
    }
    for piece in pieces {
        let end = piece.memory_offset.checked_add(piece.length);
        if end.is_none_or(|end| end > length as u64) {
            return -EFAULT;
        }
        // SAFETY: replaces pages of the mapping that was just made and that nobody has
        // been told of yet; the range was checked to lie within it.
        let mapped = unsafe {
            map(
                start + piece.memory_offset as usize,
                piece.length as usize,
                PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_FIXED,
                piece.descriptor as c_int,
                piece.file_offset as i64,
            )
        };
        if failed_result(mapped) {
            return mapped;
        }
    }
    0
}

/// Two decimal numbers with a colon between.
unsafe fn two_numbers(text: *const c_char) -> Option<(usize, usize)> {
    let mut numbers = [0_usize; 2];
    let (mut index, mut digits) = (0, 0);
    let mut at = text.cast::<u8>();
    loop {
        // SAFETY: `at` walks a NUL-terminated string and stops at the NUL at the latest.
        let byte = unsafe { *at };
        match byte {
            b'0'..=b'9' if digits < 12 => {
                numbers[index] = numbers[index] * 10 + usize::from(byte - b'0');
                digits += 1;
            }
            b':' if index == 0 && digits > 0 => (index, digits) = (1, 0),
            0 if index == 1 && digits > 0 => return Some((numbers[0], numbers[1])),
            _ => return None,
        }
        at = at.wrapping_add(1);
    }
}

/// What follows `prefix` in `text`, if it begins so.
unsafe fn after(text: *const c_char, prefix: &[u8]) -> Option<*const u8> {
    let mut at = text.cast::<u8>();
    for expected in prefix {
        // SAFETY: `at` walks a NUL-terminated string and stops at the first difference,
        // which a NUL is unless it is the prefix's own last byte.
        if unsafe { *at } != *expected {
            return None;
        }
        at = at.wrapping_add(1);
    }
    Some(at)
}

/// The descriptor that stands for `path`: the number in `/proc/self/fd/<number>`, or the
/// one of the KVM device if the environment names it.
unsafe fn descriptor(path: *const c_char) -> Option<c_long> {
    // SAFETY: the caller's string; a look-up of a NUL-terminated name in the environment,
    // whose answer is a NUL-terminated string.
    unsafe {
        if after(path, KVM_DEVICE).is_some() {
            let text = getenv(KVM.as_ptr().cast());
            return if text.is_null() { None } else { number(text.cast()) };
        }
        number(after(path, PREFIX)?)
    }
}

/// A decimal number of at most six digits, up to the end of the string.
unsafe fn number(mut at: *const u8) -> Option<c_long> {
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
        set_errno(-result);
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

/// `mmap(2)` for files of any size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    descriptor: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: forwarded unchanged.
    let mapped = unsafe {
        map(
            address as usize,
            length,
            protection,
            flags,
            descriptor,
            offset,
        )
    };
    let guest = descriptor >= 0
        && flags & (MAP_PRIVATE | MAP_FIXED) == MAP_PRIVATE | MAP_FIXED
        && protection == PROT_READ | PROT_WRITE
        && !failed_result(mapped);
    let failed = if failed_result(mapped) {
        mapped
    } else if guest {
        // SAFETY: the mapping was just made with this length.
        unsafe { complete(mapped as usize, length) }
    } else {
        0
    };
    if failed < 0 {
        set_errno(-failed);
        return MAP_FAILED;
    }
    mapped as *mut c_void
}
