//! Creating layers, and opening them again after whatever happened.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::index::{self, BLOCK_SIZE, Header, LayerId, Mark, Replay, State};
use super::writable::{self, DATA, Gate, Limit, Log, WritableLayer, ZERO};
use super::{DATA_FILE, INDEX_FILE, index_error};
use crate::error::Error;
use crate::map::ByteMap;
use crate::storage::{Blob, Lock, Storage};

/// A sealed layer: shared by any number of devices, never written.
pub(crate) struct ImmutableLayer {
    pub(crate) data: Arc<dyn Blob>,
    /// Sorted, without overlaps.
    pub(crate) marks: Vec<Mark>,
}

/// Makes an empty layer. Its directory must not exist; nothing of it needs to
/// survive a power cut before the first flush, so nothing is synced here.
pub(crate) fn create(
    storage: &Arc<dyn Storage>,
    path: &Path,
    size_bytes: u64,
    limit: Limit,
) -> Result<WritableLayer, Error> {
    storage
        .create_directory(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists {
                path: path.to_owned(),
            },
            _ => Error::io("create the layer", path)(error),
        })?;
    initialise(storage, path, size_bytes, limit)
}

/// Writes the files of an empty layer into its directory. The index comes
/// last: without it the layer counts as not yet created.
fn initialise(
    storage: &Arc<dyn Storage>,
    path: &Path,
    size_bytes: u64,
    limit: Limit,
) -> Result<WritableLayer, Error> {
    let mut layer_id = LayerId::default();
    getrandom::fill(&mut layer_id)
        .map_err(|error| Error::io("draw an id for", path)(io::Error::other(error.to_string())))?;
    let boot_id = storage
        .boot_id()
        .map_err(Error::io("read the boot id for", path))?;
    let header = Header {
        size_bytes,
        boot_id,
        layer_id,
        sealed_records: None,
    };
    let data_path = path.join(DATA_FILE);
    let data = storage
        .create(&data_path)
        .map_err(Error::io("create", &data_path))?;
    lock(&*data, path, Lock::Exclusive)?;
    data.set_length(size_bytes)
        .map_err(Error::io("size", &data_path))?;
    let encoder = index::encode_new(&header);
    let file = replace_index(storage, path, &encoder.bytes, false)?;
    let log = Log {
        file,
        tail: encoder.bytes.len() as u64,
        chain: encoder.chain,
        marks: 0,
        committed: 0,
        unsynced: true,
        unnamed: true,
        broken: false,
        sealed: false,
    };
    let blocks = ByteMap::new(size_bytes / BLOCK_SIZE);
    Ok(WritableLayer {
        storage: storage.clone(),
        path: path.to_owned(),
        header,
        data,
        log: Mutex::new(log),
        blocks,
        used_blocks: AtomicU64::new(0),
        limit,
        dirty: AtomicBool::new(true),
        gate: Gate::default(),
    })
}

/// Opens a layer to go on writing.
pub(crate) fn open_writable(
    storage: &Arc<dyn Storage>,
    path: &Path,
    size_bytes: u64,
    limit: Limit,
) -> Result<WritableLayer, Error> {
    let files = Files::open(storage, path, true, Lock::Exclusive)?;
    let replay = files.replay(path)?;
    check_size(path, &replay.header, size_bytes)?;
    if replay.header.sealed_records.is_some() {
        return Err(Error::Sealed {
            path: path.to_owned(),
        });
    }
    recover(storage, path, files, replay, limit)
}

/// Opens a layer to read it. One whose sealing was interrupted is finished now.
pub(crate) fn open_immutable(
    storage: &Arc<dyn Storage>,
    path: &Path,
    size_bytes: u64,
) -> Result<ImmutableLayer, Error> {
    let files = Files::open(storage, path, false, Lock::Shared)?;
    let replay = files.replay(path)?;
    check_size(path, &replay.header, size_bytes)?;
    if replay.header.sealed_records.is_some() {
        check_sorted(path, &replay.marks)?;
        return Ok(ImmutableLayer {
            data: files.data,
            marks: replay.marks,
        });
    }
    drop(files);
    let layer = open_writable(storage, path, size_bytes, Limit::default())?;
    layer.finish().map_err(Error::Flush)?;
    Ok(ImmutableLayer {
        data: layer.data.clone(),
        marks: layer.marks().collect(),
    })
}

struct Files {
    data: Arc<dyn Blob>,
    index: Arc<dyn Blob>,
}

impl Files {
    fn open(
        storage: &Arc<dyn Storage>,
        path: &Path,
        writable: bool,
        wanted: Lock,
    ) -> Result<Self, Error> {
        let open = |name: &str| {
            let file = path.join(name);
            storage
                .open(&file, writable)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => Error::Missing {
                        path: path.to_owned(),
                    },
                    _ => Error::io("open", &file)(error),
                })
        };
        let data = open(DATA_FILE)?;
        lock(&*data, path, wanted)?;
        // After the lock: sealing replaces the index while it holds the lock.
        Ok(Self {
            index: open(INDEX_FILE)?,
            data,
        })
    }

    fn replay(&self, path: &Path) -> Result<Replay, Error> {
        let file = path.join(INDEX_FILE);
        let length = self.index.length().map_err(Error::io("measure", &file))?;
        if length > crate::MAX_INDEX_BYTES {
            return Err(Error::corrupt(
                path,
                format!("the index has {length} bytes"),
            ));
        }
        let mut bytes = vec![0; length as usize];
        self.index
            .read_at(&mut bytes, 0)
            .map_err(Error::io("read", &file))?;
        let replay = index::replay(&bytes).map_err(|error| index_error(path, &error))?;
        let data = self
            .data
            .length()
            .map_err(Error::io("measure", &path.join(DATA_FILE)))?;
        // Before its first sync the data file may have any length.
        if data != replay.header.size_bytes && replay.committed > 0 {
            return Err(Error::corrupt(
                path,
                format!("the data file has {data} bytes"),
            ));
        }
        Ok(replay)
    }
}

/// Continues a log. In the kernel run that began it the page cache has all
/// that was written; in a later one only what was committed counts, and the
/// log starts anew so that nothing uncommitted can come back.
fn recover(
    storage: &Arc<dyn Storage>,
    path: &Path,
    files: Files,
    replay: Replay,
    limit: Limit,
) -> Result<WritableLayer, Error> {
    let boot_id = storage
        .boot_id()
        .map_err(Error::io("read the boot id for", path))?;
    let same_boot = replay.header.boot_id == boot_id;
    let header = Header {
        boot_id,
        ..replay.header
    };
    let marks = if same_boot {
        &replay.marks[..]
    } else {
        &replay.marks[..replay.committed]
    };
    let blocks = ByteMap::new(header.size_bytes / BLOCK_SIZE);
    for state in [State::Zero, State::Data] {
        for mark in marks.iter().filter(|mark| mark.state == state) {
            blocks.fill(
                mark.blocks.clone(),
                if state == State::Data { DATA } else { ZERO },
            );
        }
    }
    let data_path = path.join(DATA_FILE);
    files
        .data
        .set_length(header.size_bytes)
        .map_err(Error::io("size", &data_path))?;
    let mut log = Log {
        file: files.index,
        tail: replay.valid_bytes,
        chain: replay.chain,
        marks: replay.marks.len() as u64,
        committed: replay.committed as u64,
        unsynced: true,
        unnamed: true,
        broken: false,
        sealed: false,
    };
    if same_boot {
        // A torn record of the process that died.
        log.file
            .set_length(log.tail)
            .map_err(Error::io("cut", &path.join(INDEX_FILE)))?;
    } else {
        let mut encoder = index::encode_new(&header);
        let mut count = 0;
        for mark in writable::marks(&blocks) {
            count += encoder.mark(mark.state, mark.blocks);
        }
        encoder.commit(count);
        log.file = replace_index(storage, path, &encoder.bytes, true)?;
        log.tail = encoder.bytes.len() as u64;
        log.chain = encoder.chain;
        log.marks = count;
        log.committed = count;
    }
    free_orphans(&*files.data, &blocks).map_err(Error::io("free space in", &data_path))?;
    let used = blocks
        .runs(0..blocks.blocks())
        .filter(|(state, _)| *state == DATA)
        .map(|(_, run)| run.end - run.start)
        .sum();
    Ok(WritableLayer {
        storage: storage.clone(),
        path: path.to_owned(),
        header,
        data: files.data,
        log: Mutex::new(log),
        blocks,
        used_blocks: AtomicU64::new(used),
        limit,
        // The process before us may have left unsynced data.
        dirty: AtomicBool::new(true),
        gate: Gate::default(),
    })
}

/// Puts a whole index in place of the old one in a single step.
fn replace_index(
    storage: &Arc<dyn Storage>,
    path: &Path,
    bytes: &[u8],
    durable: bool,
) -> Result<Arc<dyn Blob>, Error> {
    let new = path.join(super::INDEX_NEW_FILE);
    let file = storage.create(&new).map_err(Error::io("create", &new))?;
    file.write_at(bytes, 0).map_err(Error::io("write", &new))?;
    if durable {
        file.sync().map_err(Error::io("sync", &new))?;
    }
    storage
        .rename(&new, &path.join(INDEX_FILE))
        .map_err(Error::io("rename", &new))?;
    Ok(file)
}

/// Gives back the space of blocks that were written without their mark.
fn free_orphans(data: &dyn Blob, blocks: &ByteMap) -> io::Result<()> {
    for (state, run) in blocks.runs(0..blocks.blocks()) {
        let end = run.end * BLOCK_SIZE;
        let mut next = run.start * BLOCK_SIZE;
        while state != DATA && next < end {
            let Some((start, stop)) = data.next_data(next, end)? else {
                break;
            };
            data.punch(start, stop - start)?;
            next = stop;
        }
    }
    Ok(())
}

fn lock(data: &dyn Blob, path: &Path, wanted: Lock) -> Result<(), Error> {
    match data.lock(wanted) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Busy {
            path: path.to_owned(),
        }),
        Err(error) => Err(Error::io("lock", path)(error)),
    }
}

fn check_size(path: &Path, header: &Header, wanted: u64) -> Result<(), Error> {
    if header.size_bytes == wanted {
        return Ok(());
    }
    Err(Error::SizeMismatch {
        path: path.to_owned(),
        found: header.size_bytes,
        wanted,
    })
}

fn check_sorted(path: &Path, marks: &[Mark]) -> Result<(), Error> {
    match marks
        .windows(2)
        .all(|pair| pair[0].blocks.end <= pair[1].blocks.start)
    {
        true => Ok(()),
        false => Err(Error::corrupt(path, "its marks overlap")),
    }
}

/// Paths of a layer, for callers that move or measure it.
pub(crate) fn exists(storage: &Arc<dyn Storage>, path: &Path) -> bool {
    storage.open(&path.join(INDEX_FILE), false).is_ok()
}

/// Opens the layer, or creates it where it was not yet or not wholly created.
pub(crate) fn open_or_create(
    storage: &Arc<dyn Storage>,
    path: &Path,
    size_bytes: u64,
    limit: Limit,
) -> Result<WritableLayer, Error> {
    if exists(storage, path) {
        return open_writable(storage, path, size_bytes, limit);
    }
    match storage.create_directory(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("create the layer", path)(error))
        }
        _ => initialise(storage, path, size_bytes, limit),
    }
}
