//! Writing a difference: from a memory to a data file and its index.

use super::{Index, PAGE, Run, Source};
use crate::{
    Digest,
    blocks::DiskBlocks,
    sparse::{Digester, is_zero},
};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::mpsc};

/// Pages of zeros, or on disk, that are worth a run of their own, by how many such runs
/// there are already: the number of runs stays below a limit that a VM can map.
const WORTH: [(usize, usize); 3] = [(1000, 8), (2000, 32), (3000, 128)];
/// Bytes that are read and written at a time.
const CHUNK: usize = 1 << 20;
/// Chunks that are read before they are written, or written before they are digested.
const AHEAD: usize = 4;
/// Bytes that are worth a flush of their own.
const FLUSHED: u64 = 16 << 20;

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
