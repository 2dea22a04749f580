//! The parser of what a VM process answers, for the fuzz targets.

/// Reads a line of the monitor; whether it is one.
#[must_use]
pub fn monitor_line(line: &[u8]) -> bool {
    crate::qmp::is_message(line)
}
