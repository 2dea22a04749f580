//! Layered copy-on-write block devices, and an NBD server for them.
//!
//! A [`Device`] merges an immutable raw image, immutable layers and at most one
//! writable layer. The [`server`] module serves it over a unix socket to any
//! NBD client; the protocol is in [`nbd`]. [`kernel`] makes what is served a
//! block device of the host, where its kernel can.

mod device;
mod error;
pub mod kernel;
pub mod layer;
mod map;
mod merge;
pub mod nbd;
pub mod server;
mod storage;
mod throttle;

pub use device::{
    Device, DeviceConfig, DeviceStats, Extent, MAX_LAYERS, SealingLayer, WritableConfig,
};
pub use error::{Error, IoError};
pub use layer::index::BLOCK_SIZE;
pub use merge::merge;
pub use throttle::IoLimits;

/// The largest device: 16 TiB.
pub const MAX_SIZE_BYTES: u64 = 16 << 40;
/// The longest index that is read into memory.
pub(crate) const MAX_INDEX_BYTES: u64 = 1 << 30;
