//! The agent's own heap.

#![expect(unsafe_code, reason = "the C library's heap has no safe wrapper")]

/// Gives memory that is not in use back to the kernel, so that a snapshot need
/// not keep it.
pub fn trim() {
    // SAFETY: no conditions; it only releases free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Buffers up to this many bytes come from the heap and return to it. The C
/// library's own limit of 128 KiB would map and unmap every buffer of a transfer
/// anew, which costs a page fault for every 4 KiB.
const MAPPED_FROM: libc::c_int = 4 * 1024 * 1024;
/// Free bytes at the heap's end that are kept.
const KEPT: libc::c_int = 2 * 1024 * 1024;

/// Sets the heap up for buffers of transfers; once, at the start of the program.
pub fn prepare() {
    // SAFETY: no conditions; both parameters are numbers of bytes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
