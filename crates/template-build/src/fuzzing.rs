//! The reader of archives that tenants upload, for the fuzz targets.

use crate::Copy;
use crate::copy::{Ownership, rewrite, select};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Reads what `source` names of the archive, and writes it for a guest, at most `limit`
/// bytes of content. Answers how many members were written.
///
/// # Errors
/// A sentence about what is wrong with the archive.
pub fn copy(archive: &Path, source: &str, limit: u64, out: &mut File) -> Result<usize, String> {
    let copy = Copy {
        source: source.to_owned(),
        destination: ".".to_owned(),
        owner: None,
        mode: None,
        files: "0".repeat(64).parse().map_err(|_| "a digest".to_owned())?,
    };
    let ownership = Ownership {
        uid: 1000,
        gid: 1000,
        mode: None,
    };
    let selection = select(archive, &copy).map_err(|error| error.to_string())?;
    let rename = PathBuf::from("renamed");
    rewrite(archive, &selection, &rename, ownership, limit, out).map_err(|error| error.to_string())
}
