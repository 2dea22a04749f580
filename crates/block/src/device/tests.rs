//! Properties of a device against a model, on a disk that loses power.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::storage::sim::{Choices, SECTOR, SimStorage};

/// More than one region, so that requests cross its end.
const BLOCKS: u64 = 300;
const SIZE: u64 = BLOCKS * BLOCK_SIZE;
const SECTORS: usize = SIZE as usize / SECTOR;
/// Ends inside a block, and well before the device.
const BASE_BYTES: usize = 180 * BLOCK_SIZE as usize + 3 * SECTOR;
const BASE_TAG: u32 = 1;

/// What a sector holds is named by a number; 0 stands for zeros.
fn render(tag: u32, sector: usize) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if tag == 0 || (tag == BASE_TAG && sector * SECTOR >= BASE_BYTES) {
        return bytes;
    }
    let word = (u64::from(tag) << 32 | sector as u64).to_le_bytes();
    bytes
        .chunks_exact_mut(word.len())
        .for_each(|chunk| chunk.copy_from_slice(&word));
    bytes
}

fn render_range(tag: u32, sectors: Range<usize>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sectors.len() * SECTOR);
    sectors.for_each(|sector| bytes.extend_from_slice(&render(tag, sector)));
    bytes
}

#[derive(Debug, Clone)]
enum Step {
    Write { start: usize, sectors: usize },
    Discard { start: usize, sectors: usize },
    WriteZeroes { start: usize, sectors: usize },
    Flush,
    Seal { finish: bool },
    Kill,
    KillAfter(u64),
    CutPower(u64),
    FreePages(Option<usize>),
}

fn ranges() -> impl Strategy<Value = (usize, usize)> {
    // Mostly short, often at block borders, sometimes across regions.
    let length = prop_oneof![4 => 1usize..24, 1 => 1usize..600];
    (0..SECTORS, length, any::<bool>()).prop_map(|(start, length, aligned)| {
        let start = if aligned { start / 8 * 8 } else { start };
        let length = if aligned {
            length.next_multiple_of(8)
        } else {
            length
        };
        (start, length.min(SECTORS - start))
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => ranges().prop_map(|(start, sectors)| Step::Write { start, sectors }),
        3 => ranges().prop_map(|(start, sectors)| Step::Discard { start, sectors }),
        3 => ranges().prop_map(|(start, sectors)| Step::WriteZeroes { start, sectors }),
        4 => Just(Step::Flush),
        2 => any::<bool>().prop_map(|finish| Step::Seal { finish }),
        2 => Just(Step::Kill),
        4 => (1u64..12).prop_map(Step::KillAfter),
        2 => any::<u64>().prop_map(Step::CutPower),
        1 => prop::option::of(0usize..8).prop_map(Step::FreePages),
    ];
    prop::collection::vec(step, 1..60)
}

struct Harness {
    storage: SimStorage,
    config: DeviceConfig,
    device: Option<Arc<Device>>,
    sealing: Vec<SealingLayer>,
    /// Per sector: what it may hold now; one value unless something failed.
    now: Vec<Vec<u32>>,
    /// Per sector: what it may hold after a power cut.
    since_flush: Vec<Vec<u32>>,
    tag: u32,
    directories: usize,
}

impl Harness {
    fn new(seed: u64) -> Self {
        let storage = SimStorage::new(seed);
        let base = render_range(BASE_TAG, 0..BASE_BYTES / SECTOR);
        storage.install(Path::new("/base"), base);
        let config = DeviceConfig {
            base: Some("/base".into()),
            layers: Vec::new(),
            writable: Some(WritableConfig {
                directory: "/layers/0".into(),
                limit_bytes: None,
                reserve_bytes: 0,
            }),
            size_bytes: SIZE,
        };
        let mut harness = Self {
            storage,
            config,
            device: None,
            sealing: Vec::new(),
            now: vec![vec![BASE_TAG]; SECTORS],
            since_flush: vec![vec![BASE_TAG]; SECTORS],
            tag: BASE_TAG,
            directories: 0,
        };
        harness.reopen();
        harness
    }

    fn device(&self) -> Arc<Device> {
        self.device.clone().expect("reopened after every end")
    }

    fn next_directory(&mut self) -> PathBuf {
        self.directories += 1;
        format!("/layers/{}", self.directories).into()
    }

    /// Opens the device as a new process would, however often that is killed.
    fn reopen(&mut self) {
        self.device = None;
        self.sealing.clear();
        loop {
            let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
            match Device::build(storage, &self.config, &Opening::OpenOrCreate) {
                Ok(device) => {
                    self.device = Some(Arc::new(device));
                    return;
                }
                Err(_) if self.storage.was_killed() => self.storage.kill_after(None),
                Err(Error::Uncommitted { path } | Error::Missing { path }) => {
                    // Never flushed, says the layer. That what it held may be
                    // lost is checked against the model by the caller.
                    self.storage.remove(&path);
                    self.config.layers.retain(|layer| *layer != path);
                }
                Err(Error::Io { .. } | Error::Flush(_)) => self.storage.set_free_pages(None),
                Err(error) => panic!("cannot reopen: {error:?}"),
            }
        }
    }

    /// Reads everything, checks it against what is allowed, and remembers it.
    fn observe(&mut self, after_power_cut: bool) {
        let mut bytes = vec![0; SIZE as usize];
        self.device()
            .read(0, &mut bytes)
            .expect("reading does not fail here");
        for (sector, found) in bytes.chunks(SECTOR).enumerate() {
            let allowed = if after_power_cut {
                &self.since_flush
            } else {
                &self.now
            }[sector]
                .clone();
            let tag = allowed
                .iter()
                .copied()
                .find(|tag| render(*tag, sector) == found);
            let Some(tag) = tag else {
                panic!(
                    "sector {sector} holds none of {allowed:?}, but {:?}",
                    &found[..8]
                );
            };
            self.now[sector] = vec![tag];
            if after_power_cut {
                self.since_flush[sector] = vec![tag];
            }
        }
    }

    /// Notes a change of sectors that was carried out, or may have been.
    fn change(&mut self, sectors: Range<usize>, tag: u32, done: bool) {
        for sector in sectors {
            if done {
                self.now[sector].clear();
            }
            self.now[sector].push(tag);
            self.since_flush[sector].push(tag);
        }
        if !done {
            self.settle();
        }
    }

    /// After a failure: a killed process is started again; either way the
    /// device must show something allowed.
    fn settle(&mut self) {
        if self.storage.was_killed() {
            self.storage.kill_after(None);
            self.reopen();
        }
        self.observe(false);
    }

    fn run(&mut self, step: &Step) {
        let bytes = |sectors: usize| sectors * SECTOR;
        match *step {
            Step::Write { start, sectors } => {
                self.tag += 1;
                let content = render_range(self.tag, start..start + sectors);
                let done = self.device().write(bytes(start) as u64, &content).is_ok();
                self.change(start..start + sectors, self.tag, done);
            }
            Step::WriteZeroes { start, sectors } => {
                let result = self
                    .device()
                    .write_zeroes(bytes(start) as u64, bytes(sectors) as u64);
                self.change(start..start + sectors, 0, result.is_ok());
            }
            Step::Discard { start, sectors } => {
                let result = self
                    .device()
                    .discard(bytes(start) as u64, bytes(sectors) as u64);
                let first = start.next_multiple_of(8);
                let end = ((start + sectors) / 8 * 8).max(first);
                self.change(first..end, 0, result.is_ok());
            }
            Step::Flush => match self.device().flush() {
                Ok(()) => self.since_flush.clone_from(&self.now),
                Err(_) => self.settle(),
            },
            Step::Seal { finish } => self.seal(finish),
            Step::Kill => {
                self.storage.kill_after(None);
                self.reopen();
                self.observe(false);
            }
            Step::KillAfter(fuel) => self.storage.kill_after(Some(fuel)),
            Step::CutPower(seed) => {
                self.device = None;
                self.sealing.clear();
                self.storage.cut_power(seed);
                self.reopen();
                self.observe(true);
            }
            Step::FreePages(pages) => self.storage.set_free_pages(pages),
        }
    }

    /// Records the new list of layers first, as the documentation demands.
    fn seal(&mut self, finish: bool) {
        let next = self.next_directory();
        let old = self.config.clone();
        if let Some(writable) = &mut self.config.writable {
            self.config
                .layers
                .push(std::mem::replace(&mut writable.directory, next.clone()));
        }
        match self.device().seal(&next) {
            Ok(sealing) if finish => {
                if sealing.finish().is_err() {
                    self.settle();
                }
            }
            Ok(sealing) => self.sealing.push(sealing),
            Err(_) if self.storage.was_killed() => self.settle(),
            Err(_) => {
                self.config = old;
                self.settle();
            }
        }
    }
}

proptest! {
    // PROPTEST_CASES asks for more or fewer.

    #[test]
    fn no_crash_corrupts(seed in any::<u64>(), steps in steps()) {
        let mut harness = Harness::new(seed);
        for step in &steps {
            harness.run(step);
        }
        harness.settle();
        // However the run ended, what is on disk is sound and flushes to itself.
        harness.run(&Step::FreePages(None));
        harness.run(&Step::Flush);
        harness.run(&Step::CutPower(seed));
    }

    #[test]
    fn reads_what_was_written(
        writes in prop::collection::vec((0..SIZE, 1usize..70_000, any::<u8>(), 0u8..8), 1..24),
        reads in prop::collection::vec((0..SIZE, 1usize..70_000), 1..8),
    ) {
        let harness = Harness::new(1);
        let device = harness.device();
        let mut model = render_range(BASE_TAG, 0..SECTORS);
        for (number, (offset, length, value, kind)) in writes.into_iter().enumerate() {
            let length = length.min((SIZE - offset) as usize);
            let target = &mut model[offset as usize..offset as usize + length];
            match kind {
                0 => {
                    device.write_zeroes(offset, length as u64).unwrap();
                    target.fill(0);
                }
                1 => drop(device.seal(Path::new(&format!("/layers/s{number}"))).unwrap()),
                _ => {
                    target.fill(value);
                    device.write(offset, target).unwrap();
                }
            }
        }
        for (offset, length) in reads {
            let length = length.min((SIZE - offset) as usize);
            let mut found = vec![1; length];
            device.read(offset, &mut found).unwrap();
            prop_assert_eq!(&found, &model[offset as usize..offset as usize + length]);
            let mut at = offset;
            for extent in device.extents(offset, length as u64, usize::MAX).unwrap() {
                prop_assert_eq!(extent.range.start, at, "extents leave no gap");
                at = extent.range.end;
                let part = &model[extent.range.start as usize..extent.range.end as usize];
                prop_assert!(!extent.is_zero || part.iter().all(|byte| *byte == 0));
            }
            prop_assert_eq!(at, offset + length as u64);
        }
    }
}

/// Threads write increasing versions to sectors of their own while others flush
/// and seal; at any moment a power cut must leave each sector at a version no
/// older than the last flush that began after the write was answered.
#[test]
fn concurrent_flushes_keep_their_promise() {
    use std::sync::atomic::{AtomicBool, AtomicU32};
    const WRITERS: usize = 3;
    let harness = Harness::new(7);
    let device = harness.device();
    let issued: Vec<AtomicU32> = (0..SECTORS).map(|_| AtomicU32::new(BASE_TAG)).collect();
    let answered: Vec<AtomicU32> = (0..SECTORS).map(|_| AtomicU32::new(BASE_TAG)).collect();
    let flushed: Vec<AtomicU32> = (0..SECTORS).map(|_| AtomicU32::new(BASE_TAG)).collect();
    let stop = AtomicBool::new(false);
    let layers = Mutex::new(vec![PathBuf::from("/layers/0")]);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (device, stop, issued, answered) = (&device, &stop, &issued, &answered);
            scope.spawn(move || {
                let mut choices = Choices(writer as u64);
                while !stop.load(Ordering::Relaxed) {
                    // Neighbouring sectors of a block belong to different threads.
                    let sector = choices.below(SECTORS / WRITERS) * WRITERS + writer;
                    let tag = issued[sector].fetch_add(1, Ordering::SeqCst) + 1;
                    let content = render(tag, sector);
                    device.write((sector * SECTOR) as u64, &content).unwrap();
                    answered[sector].store(tag, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let before: Vec<u32> = answered
                    .iter()
                    .map(|tag| tag.load(Ordering::SeqCst))
                    .collect();
                device.flush().unwrap();
                for (tag, before) in flushed.iter().zip(before) {
                    tag.store(before, Ordering::SeqCst);
                }
            }
        });
        let _stop = StopOnDrop(&stop);
        for round in 0..40u64 {
            if round % 4 == 3 {
                let next = PathBuf::from(format!("/layers/{round}"));
                // Held over the fork below: the list is recorded first.
                layers.lock().unwrap().push(next.clone());
                let sealing = device.seal(&next).unwrap();
                if round % 8 == 3 {
                    sealing.finish().unwrap();
                }
            }
            let least: Vec<u32> = flushed
                .iter()
                .map(|tag| tag.load(Ordering::SeqCst))
                .collect();
            let storage = harness.storage.fork();
            let most: Vec<u32> = issued
                .iter()
                .map(|tag| tag.load(Ordering::SeqCst))
                .collect();
            storage.cut_power(round);
            check_versions(storage, &layers.lock().unwrap(), &least, &most);
        }
    });
}

/// Lets the other threads of a scope end when one of them fails.
struct StopOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn check_versions(storage: SimStorage, layers: &[PathBuf], least: &[u32], most: &[u32]) {
    let mut layers = layers.to_vec();
    let device = loop {
        let (writable, below) = layers
            .split_last()
            .map(|(a, b)| (a.clone(), b.to_vec()))
            .unwrap();
        let config = DeviceConfig {
            base: Some("/base".into()),
            layers: below,
            writable: Some(WritableConfig {
                directory: writable.clone(),
                limit_bytes: None,
                reserve_bytes: 0,
            }),
            size_bytes: SIZE,
        };
        match Device::build(Arc::new(storage.clone()), &config, &Opening::OpenOrCreate) {
            Ok(device) => break device,
            Err(Error::Uncommitted { path } | Error::Missing { path }) => {
                storage.remove(&path);
                layers.retain(|layer| *layer != path || *layer == writable);
            }
            Err(error) => panic!("cannot reopen: {error:?}"),
        }
    };
    let mut bytes = vec![0; SIZE as usize];
    device.read(0, &mut bytes).unwrap();
    for (sector, found) in bytes.chunks(SECTOR).enumerate() {
        let range = least[sector]..=most[sector];
        let held = range.clone().any(|tag| render(tag, sector) == found);
        assert!(
            held,
            "sector {sector} holds none of {range:?}: {:?}",
            &found[..8]
        );
    }
}

/// A write between a flush's two syncs is not part of that flush.
#[test]
fn a_write_during_a_flush_is_not_committed_without_its_data() {
    for seed in 0..32 {
        let mut harness = Harness::new(seed);
        harness.run(&Step::Write {
            start: 0,
            sectors: 8,
        });
        let (device, tag) = (harness.device(), harness.tag + 1);
        let late = 80..96;
        let content = render_range(tag, late.clone());
        let offset = (late.start * SECTOR) as u64;
        harness
            .storage
            .after_sync(move || device.write(offset, &content).unwrap());
        harness.run(&Step::Flush);
        harness.change(late, tag, true);
        harness.run(&Step::CutPower(seed));
    }
}

/// Blocks that were discarded have their data mark already: what a failed
/// write leaves in them shows before a restart as it does after.
#[test]
fn a_failed_write_over_discarded_blocks_shows_the_same_after_a_restart() {
    let mut harness = Harness::new(11);
    harness.run(&Step::Write {
        start: 0,
        sectors: 64,
    });
    harness.run(&Step::Discard {
        start: 0,
        sectors: 64,
    });
    harness.run(&Step::FreePages(Some(3)));
    let content = render_range(99, 0..64);
    assert!(matches!(
        harness.device().write(0, &content),
        Err(IoError::NoSpace)
    ));
    harness.change(0..64, 99, false);
    harness.run(&Step::Kill);
    harness.run(&Step::FreePages(None));
    harness.run(&Step::Flush);
    harness.run(&Step::CutPower(1));
}

#[test]
fn a_failed_sync_is_never_forgotten() {
    let harness = Harness::new(3);
    let device = harness.device();
    device.write(0, &[1; 4096]).unwrap();
    harness.storage.fail_syncs(true);
    assert!(matches!(device.flush(), Err(IoError::Storage(_))));
    harness.storage.fail_syncs(false);
    assert!(matches!(device.flush(), Err(IoError::Poisoned)));
}

#[test]
fn the_limit_counts_what_is_held() {
    let mut harness = Harness::new(4);
    harness.config.writable.as_mut().unwrap().limit_bytes = Some(4 * BLOCK_SIZE);
    harness.reopen();
    let device = harness.device();
    device.write(0, &[1; 4 * 4096]).unwrap();
    assert!(matches!(
        device.write(5 * BLOCK_SIZE, &[1; 1]),
        Err(IoError::NoSpace)
    ));
    device.write(0, &[2; 4096]).unwrap();
    device.discard(0, BLOCK_SIZE).unwrap();
    assert_eq!(device.stats().used_bytes, 3 * BLOCK_SIZE);
    device.write(5 * BLOCK_SIZE, &[1; 1]).unwrap();
    assert!(matches!(device.write(0, &[2; 4096]), Err(IoError::NoSpace)));
    let mut block = [9; 4096];
    device.read(0, &mut block).unwrap();
    assert_eq!(block, [0; 4096]);
}

#[test]
fn truncated_and_corrupted_layers_are_named() {
    let mut harness = Harness::new(5);
    harness.run(&Step::Write {
        start: 0,
        sectors: 64,
    });
    harness.run(&Step::Write {
        start: 640,
        sectors: 64,
    });
    harness.seal(true);
    let index = Path::new("/layers/0/index");
    let open = |harness: &Harness| {
        let storage: Arc<dyn Storage> = Arc::new(harness.storage.fork());
        Device::build(storage, &harness.config, &Opening::Open).map(|_| ())
    };
    open(&harness).unwrap();
    harness
        .storage
        .tamper(index, |bytes| bytes.truncate(bytes.len() - 16));
    assert!(
        matches!(open(&harness), Err(Error::Corrupt { path, .. }) if path == Path::new("/layers/0"))
    );
    harness
        .storage
        .tamper(index, |bytes| bytes.extend_from_slice(&[0; 16]));
    assert!(matches!(open(&harness), Err(Error::Corrupt { .. })));
    harness.storage.tamper(index, |bytes| bytes[60] ^= 1);
    assert!(matches!(open(&harness), Err(Error::Corrupt { .. })));
    harness.storage.tamper(index, |bytes| bytes.clear());
    assert!(matches!(open(&harness), Err(Error::Uncommitted { .. })));
}

#[test]
fn a_sealed_layer_takes_no_writer_and_a_writer_no_second() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let config = |layers: &[&str], writable: Option<&str>| DeviceConfig {
        base: None,
        layers: layers.iter().map(|name| path(name)).collect(),
        writable: writable.map(|name| WritableConfig {
            directory: path(name),
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes: SIZE,
    };
    let device = Arc::new(Device::create(&config(&[], Some("a"))).unwrap());
    assert!(matches!(
        Device::open(&config(&[], Some("a"))),
        Err(Error::Busy { .. })
    ));
    assert!(matches!(
        Device::create(&config(&[], Some("a"))),
        Err(Error::Exists { .. })
    ));
    device.write(0, b"hello").unwrap();
    device.seal(&path("b")).unwrap().finish().unwrap();
    assert!(matches!(
        Device::open(&config(&[], Some("a"))),
        Err(Error::Busy { .. })
    ));
    let fork = Device::create(&config(&["a"], Some("c"))).unwrap();
    let mut found = [0; 5];
    fork.read(0, &mut found).unwrap();
    assert_eq!(&found, b"hello");
    drop((device, fork));
    assert!(matches!(
        Device::open(&config(&[], Some("a"))),
        Err(Error::Sealed { .. })
    ));
    assert!(matches!(
        Device::open(&config(&["a"], Some("d"))),
        Err(Error::Missing { .. })
    ));
    let reader = Device::open(&config(&["a"], None)).unwrap();
    assert!(matches!(reader.write(0, b"x"), Err(IoError::ReadOnly)));
    assert!(matches!(
        reader.read(SIZE - 1, &mut found),
        Err(IoError::OutOfRange)
    ));
}

#[test]
fn a_nearly_full_disk_takes_no_new_data_and_overwrites_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let config = |reserve_bytes| DeviceConfig {
        base: None,
        layers: Vec::new(),
        writable: Some(WritableConfig {
            directory: directory.path().join("layer"),
            limit_bytes: None,
            reserve_bytes,
        }),
        size_bytes: SIZE,
    };
    let device = Device::create(&config(1)).unwrap();
    device.write(0, &[1; 4096]).unwrap();
    device.flush().unwrap();
    drop(device);
    // More than any disk has.
    let device = Device::open(&config(u64::MAX / 2)).unwrap();
    device.write(0, &[2; 4096]).unwrap();
    let refused = device.write(BLOCK_SIZE, &[3; 4096]);
    assert!(matches!(refused, Err(IoError::NoSpace)), "{refused:?}");
    let mut found = [0; 2 * 4096];
    device.read(0, &mut found).unwrap();
    assert_eq!((found[0], found[4096]), (2, 0));
    assert_eq!(device.stats().used_bytes, BLOCK_SIZE);
}
