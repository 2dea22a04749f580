//! The agent's own heap.

#![expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]

/// Gives memory that is not in use back to the kernel, so that a snapshot need
/// not keep it.
pub fn trim() {
    // SAFETY: no conditions; it only releases free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
