//! A file system in memory that can lose power.
//!
//! Every file keeps what was synced and the writes since. A power cut picks,
//! for each 512-byte sector on its own, any version between the two, and for
//! the names any prefix of the changes since their directory was synced: all
//! that a real disk may do, and more. A kill makes the operation under way stop
//! in its middle and every later one fail without effect.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Blob, BootId, Lock, Storage};

pub(crate) const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// A stream of choices, small and reproducible.
#[derive(Clone)]
pub(crate) struct Choices(pub(crate) u64);

impl Choices {
    /// A number below `bound` (splitmix64).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[derive(Clone)]
pub(crate) struct SimStorage(Arc<Mutex<World>>);

#[derive(Clone)]
struct World {
    boot: u8,
    /// Files and directories that live, by name.
    names: BTreeMap<PathBuf, Entry>,
    stable_names: BTreeMap<PathBuf, Entry>,
    pending_names: Vec<NameChange>,
    files: Vec<SimFile>,
    /// Operations until the process is killed.
    fuel: Option<u64>,
    choices: Choices,
    /// Pages that all files together may occupy.
    space: usize,
    fail_sync: bool,
    /// While true, writes wait.
    held: Arc<(Mutex<bool>, Condvar)>,
    waiting_writes: Arc<AtomicUsize>,
    after_sync: Arc<Mutex<Option<Hook>>>,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Directory,
    File(usize),
}

#[derive(Clone)]
enum NameChange {
    Add(PathBuf, Entry),
    Rename(PathBuf, PathBuf),
}

#[derive(Clone, Default)]
struct SimFile {
    now: Vec<u8>,
    stable: Vec<u8>,
    pending: Vec<Change>,
    holes: BTreeSet<usize>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

struct SimBlob {
    world: Arc<Mutex<World>>,
    file: usize,
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

impl SimStorage {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            boot: 1,
            names: BTreeMap::new(),
            stable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            files: Vec::new(),
            fuel: None,
            choices: Choices(seed),
            space: usize::MAX,
            fail_sync: false,
            held: Arc::default(),
            waiting_writes: Arc::default(),
            after_sync: Arc::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that is there and durable from the start.
    pub(crate) fn install(&self, path: &Path, bytes: Vec<u8>) {
        let mut world = self.lock();
        let file = world.files.len();
        world.files.push(SimFile {
            now: bytes.clone(),
            stable: bytes,
            ..SimFile::default()
        });
        world.names.insert(path.into(), Entry::File(file));
        world.stable_names.insert(path.into(), Entry::File(file));
    }

    /// Kills the process at the operation after the next `fuel`.
    pub(crate) fn kill_after(&self, fuel: Option<u64>) {
        self.lock().fuel = fuel;
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.lock().fuel == Some(0)
    }

    /// Leaves room for that many more pages.
    pub(crate) fn set_free_pages(&self, free: Option<usize>) {
        let mut world = self.lock();
        world.space = free.map_or(usize::MAX, |free| world.used_pages() + free);
    }

    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.lock().fail_sync = fail;
    }

    /// Makes writes wait, as on a disk that does not keep up.
    pub(crate) fn hold_writes(&self, hold: bool) {
        let held = self.lock().held.clone();
        *held.0.lock().unwrap_or_else(PoisonError::into_inner) = hold;
        held.1.notify_all();
    }

    /// Waits until a write is held.
    pub(crate) fn await_held_write(&self) {
        let waiting = self.lock().waiting_writes.clone();
        let deadline = Instant::now() + Duration::from_secs(20);
        while waiting.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "no write came to be held");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs something in the instant after the next sync of a file.
    pub(crate) fn after_sync(&self, hook: impl FnOnce() + Send + 'static) {
        let slot = self.lock().after_sync.clone();
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// A copy of this moment, for a process that is dead.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    /// Removes a directory and all in it, durably.
    pub(crate) fn remove(&self, directory: &Path) {
        let mut world = self.lock();
        world.names.retain(|path, _| !path.starts_with(directory));
        world.stable_names = world.names.clone();
        world.pending_names.clear();
    }

    /// Corrupts or cuts a file behind everyone's back.
    pub(crate) fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.lock();
        let Some(Entry::File(file)) = world.names.get(path).copied() else {
            panic!("no file {}", path.display());
        };
        let file = &mut world.files[file];
        change(&mut file.now);
        file.stable = file.now.clone();
        file.pending.clear();
    }

    /// The host loses power and starts again.
    pub(crate) fn cut_power(&self, seed: u64) {
        let mut world = self.lock();
        let mut choices = Choices(seed);
        let keep = choices.below(world.pending_names.len() + 1);
        let changes = world.pending_names[..keep].to_vec();
        for change in changes {
            change.apply(&mut world.stable_names);
        }
        world.pending_names.clear();
        world.names = world.stable_names.clone();
        for file in &mut world.files {
            file.lose(&mut choices);
        }
        world.boot += 1;
        world.fuel = None;
    }
}

impl NameChange {
    fn parent(&self) -> Option<&Path> {
        match self {
            NameChange::Add(path, _) | NameChange::Rename(_, path) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            NameChange::Add(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            NameChange::Rename(from, to) => {
                if let Some(entry) = names.remove(from) {
                    names.insert(to.clone(), entry);
                }
            }
        }
    }
}

impl World {
    /// Counts an operation. `Ok(false)`: the process dies in the middle of it.
    fn step(&mut self) -> io::Result<bool> {
        match &mut self.fuel {
            None => Ok(true),
            Some(0) => Err(killed()),
            Some(fuel) => {
                *fuel -= 1;
                Ok(*fuel > 0)
            }
        }
    }

    fn whole_step(&mut self) -> io::Result<()> {
        if self.step()? { Ok(()) } else { Err(killed()) }
    }

    fn used_pages(&self) -> usize {
        self.files
            .iter()
            .map(|file| file.now.len().div_ceil(PAGE) - file.holes.len())
            .sum()
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }
}

impl SimFile {
    fn lose(&mut self, choices: &mut Choices) {
        let lengths: Vec<usize> = std::iter::once(self.stable.len())
            .chain(
                self.pending
                    .iter()
                    .scan(self.stable.len(), |length, change| {
                        *length = change.length(*length);
                        Some(*length)
                    }),
            )
            .collect();
        let length = lengths[choices.below(lengths.len())];
        let mut after = self.stable.clone();
        after.resize(length, 0);
        let mut relevant = vec![Vec::new(); length.div_ceil(SECTOR)];
        for change in &self.pending {
            let touched = change.range(length);
            let sectors = touched.start / SECTOR..touched.end.div_ceil(SECTOR);
            for sector in relevant.get_mut(sectors).unwrap_or_default() {
                sector.push(change);
            }
        }
        for (number, (sector, changes)) in after.chunks_mut(SECTOR).zip(relevant).enumerate() {
            let range = number * SECTOR..number * SECTOR + sector.len();
            for change in &changes[..choices.below(changes.len() + 1)] {
                change.apply_to(&range, sector);
            }
        }
        self.holes = hole_pages(&after);
        self.now = after.clone();
        self.stable = after;
        self.pending.clear();
    }
}

fn hole_pages(bytes: &[u8]) -> BTreeSet<usize> {
    let pages = bytes.chunks(PAGE).enumerate();
    pages
        .filter(|(_, page)| **page == [0; PAGE][..page.len()])
        .map(|(at, _)| at)
        .collect()
}

impl Change {
    fn length(&self, before: usize) -> usize {
        match self {
            Change::Write(offset, bytes) => before.max(offset + bytes.len()),
            Change::Length(length) => *length,
        }
    }

    /// The bytes that change in a file of that length.
    fn range(&self, length: usize) -> std::ops::Range<usize> {
        match self {
            Change::Write(offset, bytes) => {
                (*offset).min(length)..(offset + bytes.len()).min(length)
            }
            Change::Length(from) => (*from).min(length)..length,
        }
    }

    fn apply_to(&self, range: &std::ops::Range<usize>, sector: &mut [u8]) {
        match self {
            Change::Write(offset, bytes) => {
                let end = range.end.min(offset + bytes.len());
                let start = range.start.max(*offset).min(end);
                if start == end {
                    return;
                }
                sector[start - range.start..end - range.start]
                    .copy_from_slice(&bytes[start - offset..end - offset]);
            }
            Change::Length(length) => {
                let kept = length.saturating_sub(range.start).min(sector.len());
                sector[kept..].fill(0);
            }
        }
    }
}

impl Storage for SimStorage {
    fn boot_id(&self) -> io::Result<BootId> {
        Ok([self.lock().boot; 16])
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut world = self.lock();
        world.whole_step()?;
        if world.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.change_name(NameChange::Add(path.into(), Entry::Directory));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn Blob>> {
        let mut world = self.lock();
        world.whole_step()?;
        let file = world.files.len();
        world.files.push(SimFile::default());
        world.change_name(NameChange::Add(path.into(), Entry::File(file)));
        Ok(Arc::new(SimBlob {
            world: self.0.clone(),
            file,
        }))
    }

    fn open(&self, path: &Path, _writable: bool) -> io::Result<Arc<dyn Blob>> {
        let world = self.lock();
        match world.names.get(path) {
            Some(Entry::File(file)) => Ok(Arc::new(SimBlob {
                world: self.0.clone(),
                file: *file,
            })),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.lock();
        world.whole_step()?;
        world.change_name(NameChange::Rename(from.into(), to.into()));
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut world = self.lock();
        world.whole_step()?;
        let (synced, rest) = std::mem::take(&mut world.pending_names)
            .into_iter()
            .partition(|change| change.parent() == Some(path));
        let synced: Vec<NameChange> = synced;
        world.pending_names = rest;
        for change in synced {
            change.apply(&mut world.stable_names);
        }
        Ok(())
    }
}

impl SimBlob {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(world: &mut World, file: usize, change: Change) {
        let file = &mut world.files[file];
        let length = change.length(file.now.len());
        let old = file.now.len();
        file.now.resize(length, 0);
        if length > old {
            file.holes.extend(old.div_ceil(PAGE)..length.div_ceil(PAGE));
        } else {
            file.holes.retain(|page| page * PAGE < length);
        }
        if let Change::Write(offset, bytes) = &change {
            file.now[*offset..offset + bytes.len()].copy_from_slice(bytes);
            for page in offset / PAGE..(offset + bytes.len()).div_ceil(PAGE) {
                file.holes.remove(&page);
            }
        }
        file.pending.push(change);
    }
}

impl Blob for SimBlob {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = self.lock();
        let bytes = world.files[self.file]
            .now
            .get(offset as usize..)
            .unwrap_or_default();
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        buffer[count..].fill(0);
        Ok(())
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (held, waiting) = {
            let world = self.lock();
            (world.held.clone(), world.waiting_writes.clone())
        };
        let guard = held.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.fetch_add(1, Ordering::SeqCst);
        drop(held.1.wait_while(guard, |held| *held));
        waiting.fetch_sub(1, Ordering::SeqCst);
        let mut world = self.lock();
        let whole = world.step()?;
        let mut count = bytes.len();
        if !whole {
            count = world.choices.below(bytes.len() + 1);
            if bytes.len() >= SECTOR {
                // The kernel copies pages whole; sectors are stricter.
                count = count / SECTOR * SECTOR;
            }
        }
        // A full disk takes the pages that still fit.
        let room = world.space.saturating_sub(world.used_pages());
        let file = &world.files[self.file];
        let mut needed = 0;
        for page in offset as usize / PAGE..(offset as usize + count).div_ceil(PAGE) {
            let there = page * PAGE < file.now.len() && !file.holes.contains(&page);
            needed += usize::from(!there);
            if needed > room {
                count = (page * PAGE).saturating_sub(offset as usize);
                break;
            }
        }
        if count > 0 {
            let change = Change::Write(offset as usize, bytes[..count].to_vec());
            Self::change(&mut world, self.file, change);
        }
        match (whole, count == bytes.len()) {
            (true, true) => Ok(()),
            (true, false) => Err(io::ErrorKind::StorageFull.into()),
            (false, _) => Err(killed()),
        }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut world = self.lock();
        let whole = world.step()?;
        let mut pages = length as usize / PAGE;
        if !whole {
            pages = world.choices.below(pages + 1);
        }
        let first = offset as usize / PAGE;
        let zeros = vec![0; pages * PAGE];
        Self::change(&mut world, self.file, Change::Write(offset as usize, zeros));
        world.files[self.file].holes.extend(first..first + pages);
        if whole { Ok(()) } else { Err(killed()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.lock();
        world.whole_step()?;
        if world.fail_sync {
            return Err(io::Error::other("a sector cannot be written"));
        }
        let file = &mut world.files[self.file];
        file.stable = file.now.clone();
        file.pending.clear();
        let hook = world.after_sync.clone();
        drop(world);
        let hook = hook.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.lock().files[self.file].now.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut world = self.lock();
        world.whole_step()?;
        Self::change(&mut world, self.file, Change::Length(length as usize));
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        let world = self.lock();
        let file = &world.files[self.file];
        Ok(((file.now.len().div_ceil(PAGE) - file.holes.len()) * PAGE) as u64)
    }

    fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        let world = self.lock();
        let file = &world.files[self.file];
        let end = (end as usize).min(file.now.len());
        let is_hole = |at: &usize| file.holes.contains(&(at / PAGE));
        let step = |at: usize| (at / PAGE + 1) * PAGE;
        let mut start = offset as usize;
        while start < end && is_hole(&start) {
            start = step(start);
        }
        if start >= end {
            return Ok(None);
        }
        let mut stop = start;
        while stop < end && !is_hole(&stop) {
            stop = step(stop);
        }
        Ok(Some((start as u64, stop.min(end) as u64)))
    }

    fn lock(&self, _lock: Lock) -> io::Result<bool> {
        Ok(true)
    }
}
