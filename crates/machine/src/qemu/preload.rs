//! The library that QEMU is started with (`preload/open_fd.rs` says why), as a sealed
//! anonymous file: nothing has to be installed, and nobody can change it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libhearth_open_fd.so"));

/// Names the descriptor of the KVM device for the library.
pub(super) const KVM: &str = "HEARTH_KVM";

/// Names the descriptor and the length of the filters for the end of QEMU's set-up.
pub(super) const FILTERS: &str = "HEARTH_FILTERS";

pub(super) fn create() -> io::Result<OwnedFd> {
    sealed("hearth-open-fd", LIBRARY)
}

/// An anonymous file that nobody can change any more.
pub(super) fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
    file.write_all(content)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}
