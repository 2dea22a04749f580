//! Layers become a tree.
//!
//! Each layer is an archive of what it adds, and of names that say what it takes
//! away of the layers below it: `.wh.NAME` one entry, `.wh..wh..opq` all that a
//! directory had. Everything is bounded: bytes that come out of the compression,
//! entries, depth. Devices are left out: a guest has its own.

use crate::{
    Error,
    tree::{Attributes, Tree, member_path},
};
use flate2::read::MultiGzDecoder;
use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, Read, Seek},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};
use tar::{Archive, Entry, EntryType};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of other tools' bookkeeping, which nobody needs.
const RESERVED: &[u8] = b".wh..wh.";
const MAX_DEPTH: usize = 200;
/// Extended attributes that are kept; others are of the maker's host.
const KEPT_XATTRS: [&str; 2] = ["user.", "security.capability"];
const MAX_XATTR_BYTES: usize = 64 << 10;
/// How far decompression runs ahead, in pieces of this size.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;

/// What an image may be at most.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Bytes that come out of all layers.
    pub bytes: u64,
    /// Entries of all layers.
    pub entries: u64,
}

/// What was unpacked so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// Devices, which were left out.
    pub skipped: u64,
}

/// Unpacks one layer over those before it. Blocks, until `stop` at the latest.
///
/// # Errors
/// For a layer that is damaged, hostile or too large, when the tree cannot be
/// written, and when it was stopped.
pub fn unpack(
    layer: &Path,
    tree: &mut Tree,
    limits: UnpackLimits,
    so_far: &mut Unpacked,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let reader = decompress(layer)?;
    std::thread::scope(|scope| {
        let (sender, pieces) = mpsc::sync_channel(PIECES);
        scope.spawn(move || read_ahead(reader, &sender));
        let input = Bounded {
            pieces,
            piece: Vec::new(),
            at: 0,
            left: limits.bytes.saturating_sub(so_far.bytes),
            read: 0,
            stop,
        };
        unpack_from(input, tree, limits, so_far)
    })
}

fn decompress(layer: &Path) -> Result<Box<dyn Read + Send>, Error> {
    let mut file = File::open(layer).map_err(Error::io("open", layer))?;
    let mut magic = [0; 4];
    let mut read = 0;
    while read < magic.len() {
        match file.read(&mut magic[read..]).map_err(Error::Layer)? {
            0 => break,
            count => read += count,
        }
    }
    file.rewind().map_err(Error::Layer)?;
    let file = BufReader::with_capacity(PIECE, file);
    Ok(if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(file))
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(Error::Layer)?)
    } else {
        Box::new(file)
    })
}

/// Decompresses while the other thread writes files. Ends when nobody listens.
fn read_ahead(mut reader: Box<dyn Read + Send>, sender: &mpsc::SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = vec![0; PIECE];
        let result = match reader.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                Ok(piece)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = result.is_err();
        if sender.send(result).is_err() || failed {
            return;
        }
    }
}

/// The decompressed bytes, at most so many.
struct Bounded<'a> {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    left: u64,
    read: u64,
    stop: &'a AtomicBool,
}

/// Marks the end of patience among other errors of reading.
#[derive(Debug, thiserror::Error)]
#[error("too large")]
struct TooLarge;

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is not wanted any more"));
        }
        while self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => {
                    self.piece = piece?;
                    self.at = 0;
                    let count = self.piece.len() as u64;
                    self.left = self
                        .left
                        .checked_sub(count)
                        .ok_or_else(|| io::Error::other(TooLarge))?;
                    self.read += count;
                }
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn unpack_from(
    input: Bounded<'_>,
    tree: &mut Tree,
    limits: UnpackLimits,
    so_far: &mut Unpacked,
) -> Result<(), Error> {
    let mut archive = Archive::new(input);
    let failed = |error: io::Error| {
        let too_large = error
            .get_ref()
            .is_some_and(|inner| inner.is::<TooLarge>() || inner.to_string().contains("too large"));
        if too_large || error.to_string().contains("too large") {
            Error::TooLarge {
                limit_mib: limits.bytes >> 20,
            }
        } else {
            Error::Layer(error)
        }
    };
    let mut own = Own::default();
    for entry in archive.entries().map_err(&failed)? {
        let mut entry = entry.map_err(&failed)?;
        so_far.entries += 1;
        if so_far.entries > limits.entries {
            return Err(Error::Entry(format!(
                "there are more than {} entries",
                limits.entries
            )));
        }
        put(&mut entry, tree, &mut own, so_far).map_err(|error| match error {
            Error::Layer(error) => failed(error),
            other => other,
        })?;
    }
    so_far.bytes += archive.into_inner().read;
    Ok(())
}

fn put<R: Read>(
    entry: &mut Entry<'_, R>,
    tree: &mut Tree,
    own: &mut Own,
    so_far: &mut Unpacked,
) -> Result<(), Error> {
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(());
    }
    let name = entry.path().map_err(Error::Layer)?.into_owned();
    let shown = name.display().to_string();
    let path = checked(&name)?;
    let base = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let write = |error: io::Error| match error.kind() {
        // What the archive lacks is the archive's fault, not the disk's.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::Other | io::ErrorKind::InvalidData => {
            Error::Layer(error)
        }
        _ => Error::io("unpack", &name)(error),
    };
    let parent = path.parent().unwrap_or(Path::new(""));
    if base == OPAQUE {
        return tree
            .remove_below(parent, &|path| own.reaches(path))
            .map_err(write);
    }
    if base.starts_with(RESERVED) {
        return Ok(());
    }
    if let Some(hidden) = base.strip_prefix(WHITEOUT) {
        let hidden = parent.join(std::ffi::OsStr::from_bytes(hidden));
        return match own.contains(&hidden) {
            true => Ok(()),
            false => tree.remove(&hidden).map_err(write),
        };
    }
    let attributes = attributes(entry)?;
    let xattrs = xattrs(entry)?;
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            tree.file(&path, attributes, &xattrs, entry)
                .map_err(write)?;
        }
        EntryType::Directory => {
            tree.make_directory(&path, attributes, &xattrs)
                .map_err(write)?;
        }
        EntryType::Symlink => {
            let to = link(entry, &shown)?;
            tree.symlink(&path, &to, attributes).map_err(write)?;
        }
        EntryType::Link => {
            let to = checked(&link(entry, &shown)?)?;
            tree.hard_link(&path, &to)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => {
                        Error::Entry(format!("{shown} is a link to what is not there"))
                    }
                    _ => write(error),
                })?;
        }
        EntryType::Fifo => tree.pipe(&path, attributes).map_err(write)?,
        EntryType::Char | EntryType::Block => {
            so_far.skipped += 1;
            return Ok(());
        }
        _ => return Err(Error::Entry(shown)),
    }
    own.insert(path);
    Ok(())
}

/// What the layer itself has put: no whiteout of its own takes that away.
#[derive(Default)]
struct Own {
    entries: HashSet<PathBuf>,
    /// Directories above them.
    above: HashSet<PathBuf>,
}

impl Own {
    fn insert(&mut self, path: PathBuf) {
        for above in path.ancestors().skip(1) {
            if !self.above.insert(above.to_owned()) {
                break;
            }
        }
        self.entries.insert(path);
    }

    fn contains(&self, path: &Path) -> bool {
        self.entries.contains(path)
    }

    /// Whether it is one of them or above one.
    fn reaches(&self, path: &Path) -> bool {
        self.contains(path) || self.above.contains(path)
    }
}

fn checked(name: &Path) -> Result<PathBuf, Error> {
    let path = member_path(name).ok_or_else(|| Error::Escape(name.display().to_string()))?;
    if path.components().count() > MAX_DEPTH {
        return Err(Error::Entry(format!("{} is too deep", name.display())));
    }
    Ok(path)
}

fn link<R: Read>(entry: &Entry<'_, R>, shown: &str) -> Result<PathBuf, Error> {
    match entry.link_name().map_err(Error::Layer)? {
        Some(link) if !link.as_os_str().is_empty() => Ok(link.into_owned()),
        _ => Err(Error::Entry(format!("{shown} is a link to nothing"))),
    }
}

fn attributes<R: Read>(entry: &Entry<'_, R>) -> Result<Attributes, Error> {
    let header = entry.header();
    let id = |value: io::Result<u64>| {
        u32::try_from(value.map_err(Error::Layer)?)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| Error::Entry("an owner out of range".to_owned()))
    };
    Ok(Attributes {
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        mode: header.mode().map_err(Error::Layer)?,
        mtime: header.mtime().unwrap_or(0),
    })
}

fn xattrs<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let Some(extensions) = entry.pax_extensions().map_err(Error::Layer)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension.map_err(Error::Layer)?;
        let name = extension
            .key()
            .ok()
            .and_then(|key| key.strip_prefix("SCHILY.xattr."));
        if let Some(name) = name
            && KEPT_XATTRS.iter().any(|kept| name.starts_with(kept))
            && extension.value_bytes().len() <= MAX_XATTR_BYTES
        {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
