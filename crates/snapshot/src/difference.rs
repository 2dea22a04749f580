//! A memory that is kept as a difference: the pages that a VM wrote since it was
//! restored, one after the other in a data file, and an index that says which
//! pages they are. Several differences over one image make one
//! [`Composition`], a list of pieces that a VM maps over the image.
//!
//! The index, all numbers little-endian:
//!
//! ```text
//!  0  magic "HRTHMEMD"   8  version: u32 = 2   12  page size: u32 = 4096
//! 16  bytes of memory: u64            24  bytes of data: u64
//! 32  number of runs: u64             40  runs of 24 bytes each:
//!        first page: u64, pages: u32, kind: u32 (1 data, 2 zeros, 3 disk),
//!        for a run on disk: layer: u32, first block: u32, else 0
//! end  BLAKE3 of all that is before, 32 bytes
//! ```
//!
//! Version 1, which is still read, knew no runs on disk: its runs are 16 bytes long.
//!
//! A guest keeps in memory what it has written to its disk. Such pages are not kept
//! twice: a run on disk is found in the data file of one of the same build's disk
//! layers, whose blocks are as large as pages.
//!
//! Runs are in rising order and do not touch when of one kind. The data of run
//! after run lies in the data file without gaps. Pages of zeros have no data: the
//! file ends in a hole as long as the longest run of them, and all of these are
//! mapped from there.

use crate::{
    Digest,
    blocks::DiskBlocks,
    sparse::{Digester, is_zero},
};
use std::{
    collections::BTreeMap, fs::File, io, ops::Range, os::unix::fs::FileExt, path::PathBuf,
    sync::mpsc,
};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
const MAGIC: &[u8; 8] = b"HRTHMEMD";
const VERSION: u32 = 2;
const VERSION_WITHOUT_DISK: u32 = 1;
const HEADER: usize = 40;
const RECORD: usize = 24;
const RECORD_WITHOUT_DISK: usize = 16;
const DIGEST: usize = 32;
const DATA: u32 = 1;
const ZEROS: u32 = 2;
const DISK: u32 = 3;
/// Runs that an index may have; more are joined by taking in pages between them.
pub const MAX_RUNS: usize = 8192;
/// An index longer than this is refused unread.
pub(crate) const MAX_INDEX_BYTES: u64 = (HEADER + DIGEST + RECORD * 4 * MAX_RUNS) as u64;
/// Pages of zeros, or on disk, that are worth a run of their own, by how many such runs
/// there are already: the number of runs stays below a limit that a VM can map.
const WORTH: [(usize, usize); 3] = [(1000, 8), (2000, 32), (3000, 128)];
/// Bytes that are read and written at a time.
const CHUNK: usize = 1 << 20;
/// Chunks that are read before they are written, or written before they are digested.
const AHEAD: usize = 4;
/// Bytes that are worth a flush of their own.
const FLUSHED: u64 = 16 << 20;

/// Consecutive pages from one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub first_page: u64,
    pub pages: u32,
    pub source: Source,
}

/// Where pages are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the data file, after those of the runs before.
    Data,
    /// Nowhere: they are zeros.
    Zeros,
    /// In a disk layer of the same build, from this block on.
    Disk { layer: u32, block: u32 },
}

/// What an index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    pub memory_bytes: u64,
    pub runs: Vec<Run>,
}

/// A stretch of a file that stands over a stretch of memory, all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index of the file among those of the composition.
    pub file: usize,
    pub file_offset: u64,
    pub memory_offset: u64,
    pub length: u64,
}

/// A whole memory out of an image and pieces of differences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composition {
    pub image: PathBuf,
    pub files: Vec<PathBuf>,
    /// In rising order of memory offset, none over another.
    pub pieces: Vec<Piece>,
}

impl Index {
    /// Bytes of the data that comes before the hole.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.pages(Source::Data).sum::<u64>() * PAGE
    }

    /// Bytes of the data file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.data_bytes() + self.pages(Source::Zeros).max().unwrap_or(0) * PAGE
    }

    fn pages(&self, source: Source) -> impl Iterator<Item = u64> {
        let runs = self.runs.iter().filter(move |run| run.source == source);
        runs.map(|run| u64::from(run.pages))
    }

    /// The disk layers that pages are found in, by number, with the length in bytes
    /// that their data files must at least have.
    #[must_use]
    pub fn disk_layers(&self) -> BTreeMap<u32, u64> {
        let mut layers = BTreeMap::new();
        for run in &self.runs {
            if let Source::Disk { layer, block } = run.source {
                let end = (u64::from(block) + u64::from(run.pages)) * PAGE;
                let longest = layers.entry(layer).or_insert(end);
                *longest = end.max(*longest);
            }
        }
        layers
    }

    /// The pieces of this difference alone. `file` is the number of its data file,
    /// `layers` those of the disk layers' data files.
    #[must_use]
    pub fn pieces(&self, file: usize, layers: &BTreeMap<u32, usize>) -> Vec<Piece> {
        let hole = self.data_bytes();
        let mut next = 0;
        let piece = |run: &Run| {
            let length = u64::from(run.pages) * PAGE;
            let (file, file_offset) = match run.source {
                Source::Zeros => (file, hole),
                Source::Data => {
                    next += length;
                    (file, next - length)
                }
                Source::Disk { layer, block } => {
                    // A layer that is not there refuses the whole when it is opened.
                    let file = layers.get(&layer).copied().unwrap_or(usize::MAX);
                    (file, u64::from(block) * PAGE)
                }
            };
            Piece {
                file,
                file_offset,
                memory_offset: run.first_page * PAGE,
                length,
            }
        };
        self.runs.iter().map(piece).collect()
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + RECORD * self.runs.len() + DIGEST);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((PAGE as u32).to_le_bytes());
        for number in [self.memory_bytes, self.data_bytes(), self.runs.len() as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for run in &self.runs {
            bytes.extend(run.first_page.to_le_bytes());
            bytes.extend(run.pages.to_le_bytes());
            for number in run.source.encode() {
                bytes.extend(number.to_le_bytes());
            }
        }
        let digest = blake3::hash(&bytes);
        bytes.extend(digest.as_bytes());
        bytes
    }

    /// # Errors
    /// A sentence about the first fault.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("no memory index: {why}"));
        let Some(body) = bytes.len().checked_sub(DIGEST) else {
            return refuse("too short");
        };
        let (body, digest) = bytes.split_at(body);
        if body.len() < HEADER || body[..8] != *MAGIC {
            return refuse("wrong beginning");
        }
        if blake3::hash(body) != *<&[u8; 32]>::try_from(digest).unwrap_or(&[0; 32]) {
            return refuse("the content does not match its digest");
        }
        let record = match number32(body, 8) {
            VERSION => RECORD,
            VERSION_WITHOUT_DISK => RECORD_WITHOUT_DISK,
            _ => return refuse("unknown version"),
        };
        if u64::from(number32(body, 12)) != PAGE {
            return refuse("unknown page size");
        }
        let records = body[HEADER..].chunks_exact(record);
        if !records.remainder().is_empty() || records.len() as u64 != number64(body, 32) {
            return refuse("wrong length");
        }
        let memory_bytes = number64(body, 16);
        let mut runs: Vec<Run> = Vec::with_capacity(records.len());
        let mut end = 0;
        for record in records {
            let Some(source) = Source::decode(&record[12..]) else {
                return refuse("a run from nowhere");
            };
            let run = Run {
                first_page: number64(record, 0),
                pages: number32(record, 8),
                source,
            };
            let last = run.first_page.checked_add(run.pages.into());
            let fits = last.is_some_and(|last| last <= memory_bytes / PAGE);
            if run.first_page < end || run.pages == 0 || !fits {
                return refuse("a run that cannot be");
            }
            end = run.first_page + u64::from(run.pages);
            runs.push(run);
        }
        let index = Self { memory_bytes, runs };
        if index.data_bytes() != number64(body, 24) {
            return refuse("the lengths contradict each other");
        }
        Ok(index)
    }
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Sorted byte ranges as at most `limit` ones: the smallest gaps are closed first.
#[must_use]
pub fn joined(mut ranges: Vec<Range<u64>>, limit: usize) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut gap = 0;
    loop {
        let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match out.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(gap) => {
                    last.end = last.end.max(range.end);
                }
                _ => out.push(range),
            }
        }
        if out.len() <= limit.max(1) {
            return out;
        }
        ranges = out;
        gap = (gap * 2).max(PAGE);
    }
}

/// What [`write`] made.
#[derive(Debug)]
pub struct Written {
    pub index: Index,
    /// Of the data file, see [`crate::sparse::digest`].
    pub digest: Digest,
}

/// Copies the ranges of a memory into the new file `data`, but for what is in the
/// `disk` layers. `read` fills a buffer from a memory offset; ranges are sorted and
/// page-aligned.
///
/// ```text
/// read ─▶ compare, write ─▶ digest        each on a thread of its own, with a
///              └┄┄▶ flush                 bounded number of buffers between them
/// ```
///
/// The disk is kept busy from the first bytes on, for whoever wants the file durable
/// afterwards; that it is durable is theirs to see to.
///
/// # Errors
/// What reading and writing report.
pub fn write(
    data: &File,
    memory_bytes: u64,
    ranges: &[Range<u64>],
    disk: &mut DiskBlocks,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()> + Sync,
) -> io::Result<Written> {
    let mut writer = Writer {
        data,
        disk,
        at: 0,
        runs: Vec::new(),
        special: 0,
        written: Vec::new(),
    };
    let (full, chunks) = mpsc::sync_channel(AHEAD);
    let (empty, buffers) = mpsc::channel();
    let (done, finished) = mpsc::sync_channel(AHEAD);
    let (dirty, due) = mpsc::sync_channel(1);
    for _ in 0..=2 * AHEAD {
        let _ = empty.send(vec![0; CHUNK]);
    }
    let digester = std::thread::scope(|scope| {
        let read = &read;
        scope.spawn(move || read_ahead(ranges, read, buffers, full));
        let digester = scope.spawn(move || digest_all(finished, empty));
        let flusher = scope.spawn(move || flush_along(data, due));
        // All ends go at the first error, so that nobody waits for anybody.
        let (chunks, done, dirty) = (chunks, done, dirty);
        let mut flushed = 0;
        for chunk in chunks {
            let (offset, length, buffer): (u64, usize, Vec<u8>) = chunk?;
            writer.chunk(offset / PAGE, &buffer[..length])?;
            let _ = done.send((buffer, std::mem::take(&mut writer.written)));
            // When it is still at the former ones, these go with the next.
            if writer.at - flushed >= FLUSHED && dirty.try_send(()).is_ok() {
                flushed = writer.at;
            }
        }
        drop((done, dirty));
        let panicked = |_| io::Error::other("a thread that keeps memory panicked");
        // The kernel tells of an error once; it is not to be lost here.
        flusher.join().map_err(panicked)??;
        digester.join().map_err(panicked)
    })?;
    let index = Index {
        memory_bytes,
        runs: writer.runs,
    };
    let length = index.file_bytes();
    data.set_len(length)?;
    Ok(Written {
        index,
        digest: digester.finish(length),
    })
}

/// Takes in what was written, and gives the buffers back.
#[expect(clippy::needless_pass_by_value, reason = "its ends are to go with it")]
fn digest_all(
    finished: mpsc::Receiver<(Vec<u8>, Vec<Range<usize>>)>,
    empty: mpsc::Sender<Vec<u8>>,
) -> Digester {
    let mut digester = Digester::default();
    for (buffer, parts) in finished {
        for part in parts {
            digester.update(&buffer[part]);
        }
        let _ = empty.send(buffer);
    }
    digester
}

/// Has the disk write whenever something is due.
fn flush_along(data: &File, due: mpsc::Receiver<()>) -> io::Result<()> {
    due.into_iter().try_for_each(|()| data.sync_data())
}

/// Reads the ranges one chunk after the other into buffers that come back empty, until
/// nobody takes them any more.
#[expect(clippy::needless_pass_by_value, reason = "its ends are to go with it")]
fn read_ahead(
    ranges: &[Range<u64>],
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    buffers: mpsc::Receiver<Vec<u8>>,
    full: mpsc::SyncSender<io::Result<(u64, usize, Vec<u8>)>>,
) {
    for range in ranges {
        let mut offset = range.start;
        while offset < range.end {
            let length = usize::try_from(range.end - offset).map_or(CHUNK, |left| left.min(CHUNK));
            let Ok(mut buffer) = buffers.recv() else {
                return;
            };
            let chunk = read(offset, &mut buffer[..length]).map(|()| (offset, length, buffer));
            let failed = chunk.is_err();
            if full.send(chunk).is_err() || failed {
                return;
            }
            offset += length as u64;
        }
    }
}

struct Writer<'a> {
    data: &'a File,
    disk: &'a mut DiskBlocks,
    at: u64,
    runs: Vec<Run>,
    /// Runs of zeros or on disk.
    special: usize,
    /// Which parts of the chunk were written.
    written: Vec<Range<usize>>,
}

impl Writer<'_> {
    /// Takes in pages: long stretches of zeros, and of what is on disk, as such, all
    /// others as data.
    fn chunk(&mut self, first_page: u64, bytes: &[u8]) -> io::Result<()> {
        let mut sources = Vec::with_capacity(bytes.len() / PAGE as usize);
        for page in bytes.chunks(PAGE as usize) {
            let source = match is_zero(page) {
                true => Some(Source::Zeros),
                false => self.disk.find(page)?,
            };
            sources.push(source.unwrap_or(Source::Data));
        }
        let mut start = 0;
        let mut data_from = 0;
        while start < sources.len() {
            let length = going_on(&sources[start..]);
            if sources[start] == Source::Data || !self.is_worth(length) {
                start += length;
                continue;
            }
            self.data(first_page, bytes, data_from..start)?;
            self.push(first_page + start as u64, length, sources[start]);
            start += length;
            data_from = start;
        }
        self.data(first_page, bytes, data_from..start)
    }

    /// Whether so many pages of one other source are to be a run.
    fn is_worth(&self, pages: usize) -> bool {
        let least = WORTH.iter().find(|(runs, _)| self.special < *runs);
        least.is_some_and(|(_, least)| pages >= *least)
    }

    fn data(&mut self, first_page: u64, bytes: &[u8], pages: Range<usize>) -> io::Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        let within = pages.start * PAGE as usize..pages.end * PAGE as usize;
        let part = &bytes[within.clone()];
        self.data.write_all_at(part, self.at)?;
        self.written.push(within);
        self.at += part.len() as u64;
        self.push(first_page + pages.start as u64, pages.len(), Source::Data);
        Ok(())
    }

    fn push(&mut self, first_page: u64, pages: usize, source: Source) {
        let pages = u32::try_from(pages).expect("a chunk has few pages");
        if let Some(last) = self.runs.last_mut()
            && last.source.after(last.pages) == source
            && last.first_page + u64::from(last.pages) == first_page
            && let Some(sum) = last.pages.checked_add(pages)
        {
            last.pages = sum;
            return;
        }
        self.special += usize::from(source != Source::Data);
        self.runs.push(Run {
            first_page,
            pages,
            source,
        });
    }
}

impl Source {
    /// Kind, layer and block.
    fn encode(self) -> [u32; 3] {
        match self {
            Self::Data => [DATA, 0, 0],
            Self::Zeros => [ZEROS, 0, 0],
            Self::Disk { layer, block } => [DISK, layer, block],
        }
    }

    /// `None` for what [`Self::encode`] does not make, or what version 1 did not know.
    fn decode(bytes: &[u8]) -> Option<Self> {
        match number32(bytes, 0) {
            DATA => Some(Self::Data),
            ZEROS => Some(Self::Zeros),
            DISK if bytes.len() >= 12 => Some(Self::Disk {
                layer: number32(bytes, 4),
                block: number32(bytes, 8),
            }),
            _ => None,
        }
    }

    /// Where the page is found that comes so many pages later in the same run.
    fn after(self, pages: u32) -> Self {
        match self {
            Self::Disk { layer, block } => Self::Disk {
                layer,
                block: block.saturating_add(pages),
            },
            other => other,
        }
    }
}

/// How many pages from the first on make one run.
fn going_on(sources: &[Source]) -> usize {
    let first = sources[0];
    let run = sources.iter().zip(0_u32..);
    run.take_while(|(source, number)| **source == first.after(*number))
        .count()
}

/// Puts sorted pieces over others: where both have a place, `top` wins.
#[must_use]
pub fn over(top: &[Piece], lower: &[Piece]) -> Vec<Piece> {
    let mut out = Vec::with_capacity(top.len() + lower.len());
    let mut covers = top.iter().copied().peekable();
    for piece in lower {
        let mut rest = *piece;
        loop {
            // Pieces above that end before the rest begins hide nothing of it.
            while let Some(cover) = covers.next_if(|cover| end(cover) <= rest.memory_offset) {
                out.push(cover);
            }
            match covers.peek() {
                Some(cover) if cover.memory_offset < end(&rest) => {
                    if cover.memory_offset > rest.memory_offset {
                        out.push(Piece {
                            length: cover.memory_offset - rest.memory_offset,
                            ..rest
                        });
                    }
                    let cut = end(cover).saturating_sub(rest.memory_offset);
                    if cut >= rest.length {
                        break;
                    }
                    rest = Piece {
                        file_offset: rest.file_offset + cut,
                        memory_offset: rest.memory_offset + cut,
                        length: rest.length - cut,
                        ..rest
                    };
                }
                _ => {
                    out.push(rest);
                    break;
                }
            }
        }
    }
    out.extend(covers);
    out.sort_unstable_by_key(|piece| piece.memory_offset);
    out
}

fn end(piece: &Piece) -> u64 {
    piece.memory_offset + piece.length
}

#[cfg(test)]
mod tests;
