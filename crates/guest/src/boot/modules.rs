//! Loading kernel modules that lie in the initramfs.

use std::ffi::CString;
use std::io;
use std::path::Path;

/// Loads `directory`/name for each line of `order`, in that order. A module
/// that the kernel has already is no error.
pub fn load_all(order: &Path, directory: &Path) -> io::Result<()> {
    let list = match std::fs::read_to_string(order) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in list.lines().map(str::trim).filter(|name| !name.is_empty()) {
        load(&directory.join(name))
            .map_err(|error| io::Error::new(error.kind(), format!("module {name}: {error}")))?;
    }
    Ok(())
}

fn load(path: &Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    match rustix::system::finit_module(&file, &CString::default(), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
