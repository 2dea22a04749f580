//! Replacing the running program by another.

#![expect(unsafe_code, reason = "execve takes raw arrays")]

use std::ffi::{CStr, c_char};
use std::io;

/// Executes `path`. Returns only when that fails.
pub fn replace(path: &CStr, argv: &[&CStr], envp: &[&CStr]) -> io::Error {
    let argv = null_terminated(argv);
    let envp = null_terminated(envp);
    // SAFETY: both arrays are null-terminated and hold live C strings.
    unsafe {
        libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
    }
    io::Error::last_os_error()
}

fn null_terminated(strings: &[&CStr]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}
