//! The parser of journals, for the fuzz targets.

/// Reads a journal, writes it, and reads it again.
///
/// # Panics
/// When that changes it.
pub fn journal(bytes: &[u8]) {
    crate::journal::read_and_write(bytes);
}
