//! A block device made of an immutable base image, immutable layers above it
//! and at most one writable layer on top.
//!
//! The merged map names for each block the one file that holds it, so a read
//! never walks the layers. Files are only ever added (a sealed layer keeps its
//! number), which makes sealing a change of one pointer and lets readers go
//! without locks.
//!
//! Writers of one 1 MiB region exclude each other only where a block must be
//! completed from below or is discarded; other writes go in parallel. Sealing
//! waits for running writes, never for a disk.

mod config;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use crate::error::{Error, IoError};
use crate::layer::index::{BLOCK_SIZE, State};
use crate::layer::{self, Limit, WritableLayer};
use crate::map::ByteMap;
use crate::storage::{Blob, Lock, OsStorage, Storage};
pub use config::{DeviceConfig, DeviceStats, Extent, WritableConfig};

/// The most layers of a device, the writable one included.
pub const MAX_LAYERS: usize = 250;

/// The merged map's bytes: the base, a layer's number plus one, or zeros.
const BASE: u8 = 0;
const ZERO: u8 = 255;
/// Blocks whose writers share a lock: 1 MiB.
const REGION_BLOCKS: u64 = 256;
const REGION_LOCKS: u64 = 64;

/// See the module's documentation. All methods may be called from any thread
/// and block it while the host's file system works.
pub struct Device {
    storage: Arc<dyn Storage>,
    size: u64,
    base: Option<Base>,
    merged: ByteMap,
    /// The data files of the layers by number; only ever added to.
    files: Box<[OnceLock<Arc<dyn Blob>>]>,
    active: RwLock<Option<Active>>,
    /// Sealed layers that are not yet durable, for flushes to cover.
    sealing: Mutex<Vec<Arc<WritableLayer>>>,
    regions: Box<[RwLock<()>]>,
    limit: Limit,
    counters: Counters,
}

struct Base {
    blob: Arc<dyn Blob>,
    length: u64,
}

#[derive(Clone)]
struct Active {
    layer: Arc<WritableLayer>,
    number: usize,
}

#[derive(Default)]
struct Counters {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    flushes: AtomicU64,
}

/// A layer that takes no more writes but may not be durable yet.
#[must_use = "the layer is durable and immutable on disk only after `finish`"]
pub struct SealingLayer {
    device: Arc<Device>,
    layer: Arc<WritableLayer>,
}

enum Opening {
    Create,
    Open,
    OpenOrCreate,
}

impl Device {
    /// Opens a device whose writable layer does not exist yet.
    pub fn create(config: &DeviceConfig) -> Result<Self, Error> {
        Self::build(Arc::new(OsStorage), config, &Opening::Create)
    }

    /// Opens a device again, after an orderly end or a crash.
    pub fn open(config: &DeviceConfig) -> Result<Self, Error> {
        Self::build(Arc::new(OsStorage), config, &Opening::Open)
    }

    /// Opens a device whose writable layer may exist. This is how a recorded
    /// but interrupted [`Device::seal`] is completed: name the layer that was
    /// writable as the last immutable one, and the next one as writable.
    pub fn open_or_create(config: &DeviceConfig) -> Result<Self, Error> {
        Self::build(Arc::new(OsStorage), config, &Opening::OpenOrCreate)
    }

    #[cfg(test)]
    pub(crate) fn create_on(
        storage: Arc<dyn Storage>,
        config: &DeviceConfig,
    ) -> Result<Self, Error> {
        Self::build(storage, config, &Opening::Create)
    }

    fn build(
        storage: Arc<dyn Storage>,
        config: &DeviceConfig,
        opening: &Opening,
    ) -> Result<Self, Error> {
        config.check()?;
        let base = config
            .base
            .as_deref()
            .map(|path| Base::open(&*storage, path))
            .transpose()?;
        let device = Self {
            size: config.size_bytes,
            base,
            merged: ByteMap::new(config.size_bytes / BLOCK_SIZE),
            files: (0..MAX_LAYERS).map(|_| OnceLock::new()).collect(),
            active: RwLock::new(None),
            sealing: Mutex::default(),
            regions: (0..REGION_LOCKS).map(|_| RwLock::default()).collect(),
            limit: config
                .writable
                .as_ref()
                .map_or_else(Limit::default, |writable| Limit {
                    bytes: writable.limit_bytes,
                    reserve: writable.reserve_bytes,
                }),
            counters: Counters::default(),
            storage,
        };
        for (number, path) in config.layers.iter().enumerate() {
            let layer = layer::open_immutable(&device.storage, path, device.size)?;
            for mark in layer.marks {
                device
                    .merged
                    .fill(mark.blocks, shown_by(number, mark.state));
            }
            device.add_file(number, layer.data);
        }
        if let Some(writable) = &config.writable {
            let open = match opening {
                Opening::Create => layer::create,
                Opening::Open => layer::open_writable,
                Opening::OpenOrCreate => layer::open_or_create,
            };
            let layer = open(
                &device.storage,
                &writable.directory,
                device.size,
                device.limit,
            )?;
            let number = config.layers.len();
            for mark in layer.marks() {
                device
                    .merged
                    .fill(mark.blocks, shown_by(number, mark.state));
            }
            device.add_file(number, layer.data().clone());
            *device
                .active
                .write()
                .unwrap_or_else(PoisonError::into_inner) = Some(Active {
                layer: Arc::new(layer),
                number,
            });
        }
        Ok(device)
    }

    fn add_file(&self, number: usize, data: Arc<dyn Blob>) {
        let added = self.files[number].set(data).is_ok();
        debug_assert!(added, "a layer's number is used once");
    }

    /// Bytes of the device.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    pub fn is_read_only(&self) -> bool {
        self.active().is_none()
    }

    fn active(&self) -> Option<Active> {
        self.active
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Fills the buffer from the device at `offset`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), IoError> {
        self.read_pieces(offset, buffer, |blob, piece, at| {
            blob.read_at(piece, at).map(|()| true)
        })?;
        Ok(())
    }

    /// Like [`Device::read`] if that needs no disk; otherwise `false`, and the
    /// buffer holds nothing of use.
    pub fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, IoError> {
        self.read_pieces(offset, buffer, |blob, piece, at| {
            blob.read_cached_at(piece, at)
        })
    }

    fn read_pieces(
        &self,
        offset: u64,
        buffer: &mut [u8],
        read: impl Fn(&dyn Blob, &mut [u8], u64) -> std::io::Result<bool>,
    ) -> Result<bool, IoError> {
        let end = self.check_range(offset, buffer.len() as u64)?;
        let mut at = offset;
        while at < end {
            let (code, run) = self.merged.run(at / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE));
            let run_end = end.min((at / BLOCK_SIZE + run) * BLOCK_SIZE);
            let piece = &mut buffer[(at - offset) as usize..(run_end - offset) as usize];
            let complete = match self.source(code) {
                Some(blob) => read(&**blob, piece, at)?,
                None => {
                    piece.fill(0);
                    true
                }
            };
            if !complete {
                return Ok(false);
            }
            at = run_end;
        }
        self.counters
            .read_bytes
            .fetch_add(end - offset, Ordering::Relaxed);
        Ok(true)
    }

    /// The file that a byte of the merged map stands for; `None` for zeros.
    fn source(&self, code: u8) -> Option<&Arc<dyn Blob>> {
        match code {
            BASE => self.base.as_ref().map(|base| &base.blob),
            ZERO => None,
            layer => self.files[usize::from(layer) - 1].get(),
        }
    }

    /// Writes the bytes at `offset`. After a failure each block of the range
    /// holds either what it held or what was to be written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let end = self.check_range(offset, bytes.len() as u64)?;
        // Held to the end: sealing waits for this write.
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        let Some(active) = &*active else {
            return Err(IoError::ReadOnly);
        };
        let mut at = offset;
        while at < end {
            let region_end = end.min((at / REGION_BYTES + 1) * REGION_BYTES);
            let piece = &bytes[(at - offset) as usize..(region_end - offset) as usize];
            self.write_region(active, at, piece)?;
            at = region_end;
        }
        self.counters
            .written_bytes
            .fetch_add(end - offset, Ordering::Relaxed);
        Ok(())
    }

    /// Writes bytes that lie in one region.
    fn write_region(&self, active: &Active, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let end = offset + bytes.len() as u64;
        let region = self.region(offset);
        {
            let _shared = region.read().unwrap_or_else(PoisonError::into_inner);
            if !self.needs_filling(active, offset, end) {
                return self.store(active, offset, bytes);
            }
        }
        // A block that is not in place becomes visible whole: complete it from
        // what the device shows, while nobody else writes to it.
        let _exclusive = region.write().unwrap_or_else(PoisonError::into_inner);
        let start = offset / BLOCK_SIZE * BLOCK_SIZE;
        let stop = end.div_ceil(BLOCK_SIZE) * BLOCK_SIZE;
        let mut whole = vec![0; (stop - start) as usize];
        let block = BLOCK_SIZE as usize;
        self.read(start, &mut whole[..block])?;
        let last = whole.len() - block;
        self.read(stop - BLOCK_SIZE, &mut whole[last..])?;
        let first = (offset - start) as usize;
        whole[first..first + bytes.len()].copy_from_slice(bytes);
        self.store(active, start, &whole)
    }

    /// Whether the first or last block is written in part and not in place.
    fn needs_filling(&self, active: &Active, offset: u64, end: u64) -> bool {
        let in_part = |at: u64| !at.is_multiple_of(BLOCK_SIZE);
        (in_part(offset) && !active.layer.is_in_place(offset / BLOCK_SIZE))
            || (in_part(end) && !active.layer.is_in_place(end / BLOCK_SIZE))
    }

    /// Writes to the layer's data file and then shows it.
    fn store(&self, active: &Active, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let code = layer_code(active.number);
        active
            .layer
            .store(offset, bytes, |blocks| self.merged.fill(blocks, code))
    }

    /// Makes the range read as zeros and frees the space of whole blocks.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.zero(offset, length, true)
    }

    /// Frees the whole blocks of the range; they read as zeros. What the range
    /// covers of other blocks stays.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.zero(offset, length, false)
    }

    fn zero(&self, offset: u64, length: u64, edges: bool) -> Result<(), IoError> {
        const ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];
        let end = self.check_range(offset, length)?;
        let start_up = end.min(offset.next_multiple_of(BLOCK_SIZE));
        let end_down = start_up.max(end / BLOCK_SIZE * BLOCK_SIZE);
        if edges {
            self.write(offset, &ZEROS[..(start_up - offset) as usize])?;
            self.write(end_down, &ZEROS[..(end - end_down) as usize])?;
        }
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        let Some(active) = &*active else {
            return Err(IoError::ReadOnly);
        };
        let mut at = start_up;
        while at < end_down {
            let region_end = end_down.min((at / REGION_BYTES + 1) * REGION_BYTES);
            let _exclusive = self
                .region(at)
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            active.layer.zero(
                at / BLOCK_SIZE..region_end / BLOCK_SIZE,
                |run| !self.shows_zeros(run),
                |run| self.merged.fill(run, ZERO),
            )?;
            at = region_end;
        }
        Ok(())
    }

    /// Whether the blocks read as zeros whatever the files hold.
    fn shows_zeros(&self, blocks: Range<u64>) -> bool {
        self.merged.runs(blocks).all(|(code, run)| match code {
            ZERO => true,
            BASE => self
                .base
                .as_ref()
                .is_none_or(|base| run.start * BLOCK_SIZE >= base.length),
            _ => false,
        })
    }

    fn region(&self, offset: u64) -> &RwLock<()> {
        &self.regions[(offset / REGION_BYTES % REGION_LOCKS) as usize]
    }

    /// Returns when every write that was answered before the call survives a
    /// power cut. Concurrent callers share one sync.
    pub fn flush(&self) -> Result<(), IoError> {
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        let layers = {
            // Sealing moves a layer from one to the other under this lock.
            let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
            let mut layers = self
                .sealing
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            layers.extend(active.iter().map(|active| active.layer.clone()));
            layers
        };
        layers.iter().try_for_each(|layer| layer.sync())
    }

    /// Makes the writable layer immutable and puts an empty one, in the new
    /// directory `next`, on top. The guest's requests wait only for writes that
    /// are running; call [`Device::flush`] before to shorten
    /// [`SealingLayer::finish`] after.
    ///
    /// To survive a crash at any point, the caller first records the new list
    /// of layers and then calls this; after a crash it opens the recorded list
    /// with [`Device::open_or_create`].
    pub fn seal(self: &Arc<Self>, next: &Path) -> Result<SealingLayer, Error> {
        let number = self.active().ok_or(Error::ReadOnly)?.number + 1;
        if number >= MAX_LAYERS {
            return Err(Error::TooManyLayers { limit: MAX_LAYERS });
        }
        let fresh = Arc::new(layer::create(&self.storage, next, self.size, self.limit)?);
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let Some(current) = active
            .as_mut()
            .filter(|current| current.number + 1 == number)
        else {
            return Err(Error::InvalidConfig(
                "another seal of the device is running".into(),
            ));
        };
        self.add_file(number, fresh.data().clone());
        let layer = std::mem::replace(&mut current.layer, fresh);
        current.number = number;
        self.sealing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(layer.clone());
        Ok(SealingLayer {
            device: self.clone(),
            layer,
        })
    }

    /// The byte ranges that layers hold, in order, each with whether it reads as
    /// zeros; what is not named is the base's.
    pub(crate) fn layered(&self) -> Vec<(Range<u64>, bool)> {
        let runs = self.merged.runs(0..self.size / BLOCK_SIZE);
        runs.filter(|(code, _)| *code != BASE)
            .map(|(code, run)| (run.start * BLOCK_SIZE..run.end * BLOCK_SIZE, code == ZERO))
            .collect()
    }

    /// Makes the writable layer immutable and durable. Nothing may be written to
    /// the device any more.
    pub(crate) fn finish_writable(&self) -> Result<(), IoError> {
        match self.active() {
            Some(active) => active.layer.finish(),
            None => Err(IoError::ReadOnly),
        }
    }

    /// What is known to be zeros in the range, in order and without gaps. More
    /// than `limit` extents end the answer early, but never before the first.
    pub fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, IoError> {
        let end = self.check_range(offset, length)?;
        let mut extents: Vec<Extent> = Vec::new();
        let push = |extents: &mut Vec<Extent>, range: Range<u64>, is_zero: bool| match extents
            .last_mut()
        {
            _ if range.is_empty() => {}
            Some(last) if last.is_zero == is_zero => last.range.end = range.end,
            _ => extents.push(Extent { range, is_zero }),
        };
        for (code, run) in self
            .merged
            .runs(offset / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE))
        {
            let run = offset.max(run.start * BLOCK_SIZE)..end.min(run.end * BLOCK_SIZE);
            let Some(blob) = self.source(code) else {
                push(&mut extents, run, true);
                continue;
            };
            let mut at = run.start;
            while let Some((start, stop)) = blob.next_data(at, run.end)? {
                push(&mut extents, at..start, true);
                push(&mut extents, start..stop, false);
                at = stop;
                if extents.len() > limit {
                    break;
                }
            }
            if extents.len() > limit {
                break;
            }
            push(&mut extents, at..run.end, true);
        }
        extents.truncate(limit.max(1));
        Ok(extents)
    }

    pub fn stats(&self) -> DeviceStats {
        let active = self.active();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DeviceStats {
            read_bytes: load(&self.counters.read_bytes),
            written_bytes: load(&self.counters.written_bytes),
            flushes: load(&self.counters.flushes),
            used_bytes: active
                .as_ref()
                .map_or(0, |active| active.layer.used_bytes()),
            allocated_bytes: active
                .as_ref()
                .and_then(|active| active.layer.data().allocated().ok())
                .unwrap_or_default(),
            layers: self
                .files
                .iter()
                .take_while(|file| file.get().is_some())
                .count(),
        }
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<u64, IoError> {
        offset
            .checked_add(length)
            .filter(|end| *end <= self.size)
            .ok_or(IoError::OutOfRange)
    }
}

const REGION_BYTES: u64 = REGION_BLOCKS * BLOCK_SIZE;

fn layer_code(number: usize) -> u8 {
    debug_assert!(number < MAX_LAYERS);
    number as u8 + 1
}

fn shown_by(number: usize, state: State) -> u8 {
    match state {
        State::Data => layer_code(number),
        State::Zero => ZERO,
    }
}

impl Base {
    fn open(storage: &dyn Storage, path: &Path) -> Result<Self, Error> {
        let blob = storage.open(path, false).map_err(Error::io("open", path))?;
        if !blob.lock(Lock::Shared).map_err(Error::io("lock", path))? {
            return Err(Error::Busy {
                path: path.to_owned(),
            });
        }
        let length = blob.length().map_err(Error::io("measure", path))?;
        Ok(Self { blob, length })
    }
}

impl SealingLayer {
    /// The layer's directory. It may be moved after [`SealingLayer::finish`].
    pub fn path(&self) -> &Path {
        self.layer.path()
    }

    /// Makes the layer durable and immutable on disk. After a failure the
    /// device goes on as before and this may be called again.
    pub fn finish(&self) -> Result<(), IoError> {
        self.layer.finish()?;
        let mut sealing = self
            .device
            .sealing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sealing.retain(|layer| !Arc::ptr_eq(layer, &self.layer));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
