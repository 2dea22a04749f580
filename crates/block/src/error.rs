//! What can go wrong: [`Error`] when a device is opened, sealed or served, and
//! [`IoError`] for one read, write, discard or flush of an open device.

use std::io;
use std::path::{Path, PathBuf};

/// A device, layer or server could not be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A layer's files contradict each other or their checksums.
    #[error("layer {} is corrupt: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    /// The layer was created but the host lost power before its first flush,
    /// so nothing of it can be trusted. Its directory may be removed.
    #[error("layer {} was never flushed before the host stopped", path.display())]
    Uncommitted { path: PathBuf },
    /// Another device, here or in another process, holds the layer open.
    #[error("layer {} is in use", path.display())]
    Busy { path: PathBuf },
    /// The layer to create is there already.
    #[error("layer {} exists already", path.display())]
    Exists { path: PathBuf },
    /// There is no such layer.
    #[error("layer {} does not exist", path.display())]
    Missing { path: PathBuf },
    /// The layer is immutable and cannot be opened for writing.
    #[error("layer {} is sealed", path.display())]
    Sealed { path: PathBuf },
    /// The layer belongs to a device of another size.
    #[error("layer {} is for a device of {found} bytes, not {wanted}", path.display())]
    SizeMismatch {
        path: PathBuf,
        found: u64,
        wanted: u64,
    },
    /// More layers than a device can address.
    #[error("a device has at most {limit} layers")]
    TooManyLayers { limit: usize },
    /// The configuration makes no sense.
    #[error("invalid device configuration: {0}")]
    InvalidConfig(String),
    /// The device has no writable layer.
    #[error("the device is read-only")]
    ReadOnly,
    /// Unflushed data was lost by the host's storage; the device only reads.
    #[error("flush the device")]
    Flush(#[source] IoError),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Error {
        Error::Corrupt {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}

/// One operation on an open device failed; the device stays correct.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The range does not lie inside the device.
    #[error("the range lies outside the device")]
    OutOfRange,
    /// The device has no writable layer.
    #[error("the device is read-only")]
    ReadOnly,
    /// The file system is full or the layer's own limit is reached.
    #[error("no space left for the layer")]
    NoSpace,
    /// An earlier flush failed, so the host's storage has lost data; what was
    /// written since the last successful flush cannot be promised any more.
    #[error("the host's storage lost data at an earlier flush")]
    Poisoned,
    /// Any other failure of the host's storage.
    #[error("the host's storage failed")]
    Storage(#[source] io::Error),
}

impl From<io::Error> for IoError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoError::NoSpace,
            _ => IoError::Storage(error),
        }
    }
}
