//! What a device is made of, and what it tells about itself.

use std::ops::Range;
use std::path::PathBuf;

use super::MAX_LAYERS;
use crate::error::Error;
use crate::layer::index::BLOCK_SIZE;

/// What a device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    /// A raw image that nobody writes to while it is in use. Beyond its end,
    /// and everywhere if there is none, the device begins as zeros.
    pub base: Option<PathBuf>,
    /// Directories of immutable layers, the lowest first.
    pub layers: Vec<PathBuf>,
    /// The layer that takes the writes; without one the device is read-only.
    pub writable: Option<WritableConfig>,
    /// Bytes of the device, a multiple of 4096; every layer was made for it.
    pub size_bytes: u64,
}

/// The writable layer of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritableConfig {
    /// The layer's directory. Its parent exists.
    pub directory: PathBuf,
    /// The most bytes of data the layer may hold; a write beyond fails with
    /// [`IoError::NoSpace`]. Discarded blocks do not count.
    pub limit_bytes: Option<u64>,
    /// A write of new data fails with [`IoError::NoSpace`] while its file system would
    /// have less than this left; 0 to fill it up. What is there already can be
    /// overwritten all the same.
    pub reserve_bytes: u64,
}

/// Counters since the device was opened, and its size on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceStats {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
    /// Bytes of data in the writable layer.
    pub used_bytes: u64,
    /// Bytes that the writable layer's data file occupies on its file system.
    pub allocated_bytes: u64,
    /// Layers, the writable one included.
    pub layers: usize,
}

/// What reads of a range find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of the device.
    pub range: Range<u64>,
    /// Known to read as zeros.
    pub is_zero: bool,
}

impl DeviceConfig {
    pub(super) fn check(&self) -> Result<(), Error> {
        let invalid = |reason: String| Err(Error::InvalidConfig(reason));
        let size = self.size_bytes;
        if size == 0 || !size.is_multiple_of(BLOCK_SIZE) || size > crate::MAX_SIZE_BYTES {
            return invalid(format!(
                "{size} bytes are no multiple of {BLOCK_SIZE} in range"
            ));
        }
        if self.layers.len() + usize::from(self.writable.is_some()) > MAX_LAYERS {
            return Err(Error::TooManyLayers { limit: MAX_LAYERS });
        }
        let writable = self.writable.as_ref();
        if writable.is_some_and(|writable| self.layers.contains(&writable.directory)) {
            return invalid("the writable layer is among the immutable ones".into());
        }
        Ok(())
    }
}
