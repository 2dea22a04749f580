//! Kernel parameters under `/proc/sys/net`. They belong to the network namespace
//! of the thread that opens the file.

use std::fs;
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// Reads `key` (with slashes, below `/proc/sys/net`), trimmed.
pub(crate) fn read(key: &str) -> Result<String> {
    fs::read_to_string(Path::new("/proc/sys/net").join(key))
        .map(|value| value.trim().to_owned())
        .map_err(Error::io(format!("read sysctl net/{key}")))
}

/// Writes `key`.
pub(crate) fn write(key: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys/net").join(key), value)
        .map_err(Error::io(format!("write sysctl net/{key}")))
}

/// Writes `key` unless this kernel has no such parameter (IPv6 compiled out).
pub(crate) fn write_if_present(key: &str, value: &str) -> Result<()> {
    match write(key, value) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
