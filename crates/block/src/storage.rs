//! The few file operations a layer needs, as a seam: the product runs on
//! [`OsStorage`], the crash tests on a simulated disk that forgets what was
//! not synced.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::{Errno, ReadWriteFlags};

#[cfg(test)]
pub(crate) mod sim;

/// Tells one run of the host's kernel from another. What a process wrote stays
/// in the page cache as long as the kernel runs, and is in doubt afterwards.
pub(crate) type BootId = [u8; 16];

/// Who else may hold the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Shared,
    Exclusive,
}

/// A random-access file.
pub(crate) trait Blob: Send + Sync {
    /// Fills the buffer; what lies past the end of the file reads as zeros.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Like `read_at`, but gives up with `false` where it would wait for a disk.
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the range read as zeros and gives its space back.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Returns when everything written so far survives a power cut.
    fn sync(&self) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Bytes that the file occupies, holes left out.
    fn allocated(&self) -> io::Result<u64>;
    /// The first range at or after `offset` that is no hole, below `end`.
    fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>>;
    /// Takes or converts the advisory lock; `false` if another holder forbids it.
    fn lock(&self, lock: Lock) -> io::Result<bool>;
}

/// A file system.
pub(crate) trait Storage: Send + Sync {
    fn boot_id(&self) -> io::Result<BootId>;
    /// Nobody else reads what is in it.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes a new file, in place of one that is there. Nothing of an old
    /// file can come back through the new one after a power cut.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Blob>>;
    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn Blob>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Bytes that may still be written to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Returns when the names in the directory survive a power cut.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The host's own file system.
pub(crate) struct OsStorage;

impl Storage for OsStorage {
    fn boot_id(&self) -> io::Result<BootId> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let mut id = BootId::default();
        if digits.len() != 2 * id.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the boot id is no UUID",
            ));
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).unwrap_or_default() as u8;
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        Ok(id)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn Blob>> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(OsBlob(options.open(path)?)))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn Blob>> {
        Ok(Arc::new(OsBlob(
            OpenOptions::new().read(true).write(writable).open(path)?,
        )))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

struct OsBlob(File);

impl Blob for OsBlob {
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.0.read_at(buffer, offset) {
                Ok(0) => {
                    buffer.fill(0);
                    break;
                }
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_cached_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<bool> {
        while !buffer.is_empty() {
            let slices = &mut [IoSliceMut::new(buffer)];
            match rustix::io::preadv2(&self.0, slices, offset, ReadWriteFlags::NOWAIT) {
                Ok(0) => {
                    buffer.fill(0);
                    break;
                }
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                // Not cached, or a file system that cannot tell.
                Err(Errno::AGAIN | Errno::OPNOTSUPP) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, flags, offset, length) {
            Err(Errno::OPNOTSUPP) => write_zeros(&self.0, offset, length),
            result => Ok(result?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn allocated(&self) -> io::Result<u64> {
        // st_blocks counts units of 512 bytes whatever the block size.
        Ok(self.0.metadata()?.blocks() * 512)
    }

    fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        use rustix::fs::{SeekFrom, seek};
        let start = match seek(&self.0, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if start >= end {
            return Ok(None);
        }
        let stop = match seek(&self.0, SeekFrom::Hole(start)) {
            Ok(stop) => stop,
            // Cut or punched meanwhile.
            Err(Errno::NXIO) => end,
            Err(error) => return Err(error.into()),
        };
        Ok(Some((start, stop.min(end))))
    }

    fn lock(&self, lock: Lock) -> io::Result<bool> {
        let operation = match lock {
            Lock::Shared => FlockOperation::NonBlockingLockShared,
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&self.0, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Stands in for hole punching on file systems without it.
fn write_zeros(file: &File, mut offset: u64, length: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let end = offset + length;
    while offset < end {
        let count = (end - offset).min(ZEROS.len() as u64) as usize;
        file.write_all_at(&ZEROS[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}
