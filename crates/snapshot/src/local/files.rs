//! Small things about files.

use crate::Error;
use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Removes a directory that another process may be removing too.
pub(super) fn remove_directory(path: &Path) -> Result<(), Error> {
    // What the other one took first makes a removal end early; the rest is looked
    // for again.
    for _ in 0..8 {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path)(error));
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io("flush", path))
}

pub(super) use hearth_util::chain;
