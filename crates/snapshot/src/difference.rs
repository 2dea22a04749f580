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

mod format;
mod write;

pub(crate) use format::MAX_INDEX_BYTES;
pub use write::{Written, write};

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Runs that an index may have; more are joined by taking in pages between them.
pub const MAX_RUNS: usize = 8192;

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
