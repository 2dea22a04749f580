//! The layer that takes writes, and its promise of durability.
//!
//! Locks, always taken in this order: the flush gate (held by the one thread
//! that syncs), then the log. The state of a block changes only under the log's
//! lock, after its mark is in the index file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::index::{self, BLOCK_SIZE, Encoder, Header, Mark, State};
use super::{INDEX_FILE, INDEX_NEW_FILE};
use crate::error::IoError;
use crate::map::ByteMap;
use crate::storage::{Blob, Lock, Storage};

/// What this layer holds of a block, as bytes of its [`ByteMap`].
pub(super) const ABSENT: u8 = 0;
pub(super) const ZERO: u8 = 1;
pub(super) const DATA: u8 = 2;
/// Marked as data, but punched out of the data file: reads as zeros.
pub(super) const PUNCHED: u8 = 3;

/// How much data a layer may hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limit {
    /// Bytes, at most.
    pub(crate) bytes: Option<u64>,
    /// Bytes that the file system has to have left, for others.
    pub(crate) reserve: u64,
}

pub(crate) struct WritableLayer {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) path: PathBuf,
    pub(super) header: Header,
    pub(super) data: Arc<dyn Blob>,
    pub(super) log: Mutex<Log>,
    pub(super) blocks: ByteMap,
    /// Blocks in state `DATA`, reservations of running writes included.
    pub(super) used_blocks: AtomicU64,
    pub(super) limit: Limit,
    /// Something was written since the last sync began.
    pub(super) dirty: AtomicBool,
    pub(super) gate: Gate,
}

/// The open end of the index file.
pub(super) struct Log {
    pub(super) file: Arc<dyn Blob>,
    pub(super) tail: u64,
    pub(super) chain: u32,
    pub(super) marks: u64,
    pub(super) committed: u64,
    /// The last commit, or the header, may not be on stable storage yet.
    pub(super) unsynced: bool,
    /// The directory entries may not be on stable storage yet.
    pub(super) unnamed: bool,
    /// A failed append could not be undone: what follows it is unknown.
    pub(super) broken: bool,
    pub(super) sealed: bool,
}

/// Lets one thread sync at a time; those who wait share the next sync.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    turn: Condvar,
}

#[derive(Default)]
struct GateState {
    running: bool,
    started: u64,
    completed: u64,
    poisoned: bool,
}

impl WritableLayer {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn data(&self) -> &Arc<dyn Blob> {
        &self.data
    }

    /// Bytes of data that the layer holds, punched blocks left out.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_blocks.load(Ordering::Relaxed) * BLOCK_SIZE
    }

    /// What the layer holds, sorted and merged.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Mark> + '_ {
        marks(&self.blocks)
    }

    /// Whether the data file holds what the device shows for the block, so
    /// that a part of it can be overwritten in place.
    pub(crate) fn is_in_place(&self, block: u64) -> bool {
        matches!(self.blocks.load(block), DATA | PUNCHED)
    }

    /// Takes the room that writing the range needs beyond what it has.
    fn reserve(&self, blocks: Range<u64>) -> Result<Reservation<'_>, IoError> {
        let count = self
            .blocks
            .runs(blocks)
            .filter(|(state, _)| *state != DATA)
            .map(|(_, run)| run.end - run.start)
            .sum();
        let used = self.used_blocks.fetch_add(count, Ordering::Relaxed);
        let reservation = Reservation {
            layer: self,
            blocks: count,
        };
        if count == 0 {
            return Ok(reservation);
        }
        match self.limit.bytes {
            Some(limit) if (used + count) * BLOCK_SIZE > limit => return Err(IoError::NoSpace),
            _ => {}
        }
        // What is in the page cache only is counted by the file system already.
        if self.limit.reserve > 0
            && self.storage.free_bytes(&self.path)?
                < self.limit.reserve.saturating_add(count * BLOCK_SIZE)
        {
            return Err(IoError::NoSpace);
        }
        Ok(reservation)
    }

    /// Writes whole blocks, or parts of blocks that are in place. `shown` is
    /// called under the log's lock for what the data file holds from now on,
    /// when its mark is in the index file.
    pub(crate) fn store(
        &self,
        offset: u64,
        bytes: &[u8],
        shown: impl Fn(Range<u64>),
    ) -> Result<(), IoError> {
        let blocks = offset / BLOCK_SIZE..(offset + bytes.len() as u64).div_ceil(BLOCK_SIZE);
        let reservation = self.reserve(blocks.clone())?;
        let written = self.data.write_at(bytes, offset);
        // Before any mark: a sync that counts the mark must see the data too.
        self.dirty.store(true, Ordering::Release);
        if written.is_ok() && self.blocks.run(blocks.clone()) == (DATA, blocks.end - blocks.start) {
            return Ok(());
        }
        let mut log = self.lock_log();
        let mut encoder = Encoder::after(log.chain);
        let mut marks = 0;
        for (_, run) in self
            .blocks
            .runs(blocks.clone())
            .filter(|(state, _)| is_unmarked(*state))
        {
            marks += encoder.mark(State::Data, run);
        }
        let result = written
            .map_err(IoError::from)
            .and_then(|()| log.append(encoder, marks));
        // A punched block is marked already and would show after a restart
        // whatever reached it, so even after a failure it must show that now.
        let changes = self.blocks.runs(blocks);
        let changes: Vec<_> = changes
            .filter(|(state, _)| *state == PUNCHED || (is_unmarked(*state) && result.is_ok()))
            .collect();
        for (_, run) in &changes {
            self.blocks.fill(run.clone(), DATA);
            shown(run.clone());
        }
        reservation.keep(changes.iter().map(|(_, run)| run.end - run.start).sum());
        result
    }

    /// Makes the range read as zeros and frees its space. `hides` tells whether
    /// a block that this layer does not hold shows something below; `shown`
    /// receives each run that reads as zeros from now on.
    pub(crate) fn zero(
        &self,
        blocks: Range<u64>,
        hides: impl Fn(Range<u64>) -> bool,
        mut shown: impl FnMut(Range<u64>),
    ) -> Result<(), IoError> {
        // Punched first: on a full file system that makes the room for marks.
        for (state, run) in self.blocks.runs(blocks.clone()) {
            if state == DATA {
                self.data
                    .punch(run.start * BLOCK_SIZE, (run.end - run.start) * BLOCK_SIZE)?;
            }
        }
        self.dirty.store(true, Ordering::Release);
        let mut log = self.lock_log();
        let mut encoder = Encoder::after(log.chain);
        let mut marks = 0;
        let mut changes = Vec::new();
        for (state, run) in self.blocks.runs(blocks) {
            match state {
                DATA => changes.push((PUNCHED, run)),
                ABSENT if hides(run.clone()) => {
                    marks += encoder.mark(State::Zero, run.clone());
                    changes.push((ZERO, run));
                }
                _ => {}
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let appended = log.append(encoder, marks);
        for (state, run) in changes {
            // Punched blocks read as zeros already, mark or no mark.
            if state == PUNCHED || appended.is_ok() {
                if state == PUNCHED {
                    self.used_blocks
                        .fetch_sub(run.end - run.start, Ordering::Relaxed);
                }
                self.blocks.fill(run.clone(), state);
                shown(run);
            }
        }
        appended
    }

    /// Returns when everything written before the call survives a power cut.
    pub(crate) fn sync(&self) -> Result<(), IoError> {
        self.gate.pass(true, || self.sync_alone())
    }

    fn sync_alone(&self) -> Result<(), SyncError> {
        let covered = {
            let log = self.lock_log();
            if log.sealed {
                return Ok(());
            }
            log.marks
        };
        if self.dirty.swap(false, Ordering::AcqRel) {
            self.data.sync().map_err(SyncError::Lost)?;
        }
        self.commit(covered)
            .inspect_err(|_| self.dirty.store(true, Ordering::Release))
    }

    /// Commits the first `covered` marks, whose data is durable.
    fn commit(&self, covered: u64) -> Result<(), SyncError> {
        let (file, unnamed) = {
            let mut log = self.lock_log();
            if covered > log.committed {
                let mut encoder = Encoder::after(log.chain);
                encoder.commit(covered);
                log.append(encoder, 0).map_err(SyncError::Refused)?;
                log.committed = covered;
                log.unsynced = true;
            }
            if !log.unsynced {
                return Ok(());
            }
            (log.file.clone(), log.unnamed)
        };
        file.sync().map_err(SyncError::Lost)?;
        if unnamed {
            self.sync_names().map_err(SyncError::Lost)?;
        }
        // Only this thread, inside the gate, writes commits.
        let mut log = self.lock_log();
        log.unsynced = false;
        log.unnamed = false;
        Ok(())
    }

    fn sync_names(&self) -> std::io::Result<()> {
        self.storage.sync_directory(&self.path)?;
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.storage.sync_directory(parent),
            _ => self.storage.sync_directory(Path::new(".")),
        }
    }

    /// Makes the layer immutable on disk, durably. Nobody writes to it any
    /// more: the device has put another layer on top. May be tried again.
    pub(crate) fn finish(&self) -> Result<(), IoError> {
        self.gate.pass(false, || {
            if self.lock_log().sealed {
                return Ok(());
            }
            self.data.sync().map_err(SyncError::Lost)?;
            let refused = |error: std::io::Error| SyncError::Refused(error.into());
            let bytes = index::encode_sealed(&self.header, marks(&self.blocks));
            let new = self.path.join(INDEX_NEW_FILE);
            let file = self.storage.create(&new).map_err(refused)?;
            file.write_at(&bytes, 0)
                .and_then(|()| file.sync())
                .map_err(refused)?;
            self.storage
                .rename(&new, &self.path.join(INDEX_FILE))
                .map_err(refused)?;
            self.sync_names().map_err(refused)?;
            self.data.lock(Lock::Shared).map_err(refused)?;
            self.lock_log().sealed = true;
            Ok(())
        })
    }

    fn lock_log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the index has no data mark for a block in this state.
fn is_unmarked(state: u8) -> bool {
    matches!(state, ABSENT | ZERO)
}

/// Sorted, merged marks of what a layer holds.
pub(super) fn marks(blocks: &ByteMap) -> impl Iterator<Item = Mark> + '_ {
    let mut runs = blocks
        .runs(0..blocks.blocks())
        .filter_map(|(state, run)| match state {
            ZERO | PUNCHED => Some(Mark {
                state: State::Zero,
                blocks: run,
            }),
            DATA => Some(Mark {
                state: State::Data,
                blocks: run,
            }),
            _ => None,
        })
        .peekable();
    std::iter::from_fn(move || {
        let mut mark = runs.next()?;
        while let Some(next) =
            runs.next_if(|next| next.state == mark.state && next.blocks.start == mark.blocks.end)
        {
            mark.blocks.end = next.blocks.end;
        }
        Some(mark)
    })
}

impl Log {
    /// Appends records whole or not at all.
    fn append(&mut self, encoder: Encoder, marks: u64) -> Result<(), IoError> {
        if encoder.bytes.is_empty() {
            return Ok(());
        }
        if self.broken {
            return Err(IoError::Poisoned);
        }
        if let Err(error) = self.file.write_at(&encoder.bytes, self.tail) {
            // A part may have been written, and would count after a restart.
            self.broken = self.file.set_length(self.tail).is_err();
            return Err(error.into());
        }
        self.tail += encoder.bytes.len() as u64;
        self.chain = encoder.chain;
        self.marks += marks;
        Ok(())
    }
}

/// Room that a running write has taken; given back unless kept.
struct Reservation<'a> {
    layer: &'a WritableLayer,
    blocks: u64,
}

impl Reservation<'_> {
    /// Keeps what was really gained: another write may have been faster.
    fn keep(mut self, gained: u64) {
        self.blocks -= gained.min(self.blocks);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.blocks > 0 {
            self.layer
                .used_blocks
                .fetch_sub(self.blocks, Ordering::Relaxed);
        }
    }
}

enum SyncError {
    /// Nothing is lost; a later sync may succeed.
    Refused(IoError),
    /// The kernel may have dropped dirty pages: no later sync can know.
    Lost(std::io::Error),
}

impl Gate {
    /// Runs `sync` alone, or, if it is `shared`, waits for one that another
    /// thread began after this call.
    fn pass(
        &self,
        shared: bool,
        sync: impl FnOnce() -> Result<(), SyncError>,
    ) -> Result<(), IoError> {
        let mut state = self.lock();
        // A sync that runs already may have begun before our last write.
        let needed = state.started + 1;
        while state.running && !(shared && state.completed >= needed) {
            state = self
                .turn
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.poisoned {
            return Err(IoError::Poisoned);
        }
        if shared && state.completed >= needed {
            return Ok(());
        }
        state.running = true;
        state.started += 1;
        let mine = state.started;
        drop(state);
        let result = sync();
        let mut state = self.lock();
        state.running = false;
        self.turn.notify_all();
        match result {
            Ok(()) => {
                state.completed = mine;
                Ok(())
            }
            Err(SyncError::Refused(error)) => Err(error),
            Err(SyncError::Lost(error)) => {
                state.poisoned = true;
                Err(IoError::Storage(error))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
