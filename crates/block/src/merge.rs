//! Merging a chain of layers into one, for chains that have grown long.

use std::path::{Path, PathBuf};

use crate::device::{Device, DeviceConfig, WritableConfig};
use crate::error::Error;

/// Bytes that are copied at a time.
const CHUNK: u64 = 1 << 20;

/// Makes a new immutable layer `into` that over `base` shows what the layers, the
/// lowest first, show together. It is durable when this returns; after a failure a
/// part of it may be there.
///
/// # Errors
/// As opening, writing and finishing layers do.
pub fn merge(base: &Path, layers: &[PathBuf], size_bytes: u64, into: &Path) -> Result<(), Error> {
    let config = |layers: &[PathBuf], writable: Option<&Path>| DeviceConfig {
        base: Some(base.to_owned()),
        layers: layers.to_vec(),
        writable: writable.map(|directory| WritableConfig {
            directory: directory.to_owned(),
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes,
    };
    let source = Device::open(&config(layers, None))?;
    let target = Device::create(&config(&[], Some(into)))?;
    let mut buffer = vec![0; CHUNK as usize];
    for (range, is_zero) in source.layered() {
        let mut at = range.start;
        while at < range.end {
            let length = CHUNK.min(range.end - at);
            if is_zero {
                target
                    .write_zeroes(at, range.end - at)
                    .map_err(Error::Flush)?;
                break;
            }
            let part = &mut buffer[..length as usize];
            source.read(at, part).map_err(Error::Flush)?;
            target.write(at, part).map_err(Error::Flush)?;
            at += length;
        }
    }
    target.finish_writable().map_err(Error::Flush)
}
