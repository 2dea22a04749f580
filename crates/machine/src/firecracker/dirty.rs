//! The memory that a restored VM wrote, as Firecracker left it in a sparse file.
//!
//! Each snapshot of what was written since the last one goes to the same file, at the
//! pages' own offsets; Firecracker keeps what is there. So what is no hole of the file is
//! what was written since the restore. The rest is the image's.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::{DirtyMemory, PageRun};

const PAGE: u64 = 4096;

/// Written pages in a file over an image.
#[derive(Debug)]
pub(super) struct ScratchMemory {
    scratch: File,
    image: File,
    length: u64,
    runs: Vec<PageRun>,
}

impl ScratchMemory {
    /// Opens both files, of a memory of `length` bytes.
    pub(super) fn open(scratch: &Path, image: &Path, length: u64) -> io::Result<Self> {
        let (scratch, image) = (File::open(scratch)?, File::open(image)?);
        if scratch.metadata()?.len() != length || image.metadata()?.len() != length {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not as long as the memory",
            ));
        }
        let runs = runs(&scratch, length)?;
        Ok(Self {
            scratch,
            image,
            length,
            runs,
        })
    }
}

/// What is no hole, in whole pages.
fn runs(file: &File, length: u64) -> io::Result<Vec<PageRun>> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(length);
        let start = start - start % PAGE;
        let end = end.next_multiple_of(PAGE);
        runs.push(PageRun {
            offset: start,
            length: end - start,
        });
        at = end;
    }
    Ok(runs)
}

impl DirtyMemory for ScratchMemory {
    fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        let end = end.filter(|end| *end <= self.length);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut at = offset;
        let first = self
            .runs
            .partition_point(|run| run.offset + run.length <= offset);
        let mut later = self.runs[first..].iter().peekable();
        while at < end {
            let (file, until) = match later.peek() {
                Some(run) if run.offset <= at => {
                    let until = run.offset + run.length;
                    later.next();
                    (&self.scratch, until)
                }
                Some(run) => (&self.image, run.offset),
                None => (&self.image, end),
            };
            let until = until.min(end);
            let range = |at: u64| usize::try_from(at - offset).map_err(io::Error::other);
            file.read_exact_at(&mut buffer[range(at)?..range(until)?], at)?;
            at = until;
        }
        Ok(())
    }

    fn read_all(
        &self,
        ranges: &[Range<u64>],
        buffer: &mut [u8],
        _threads: usize,
    ) -> io::Result<()> {
        let mut rest = buffer;
        for range in ranges {
            let length = range.end.checked_sub(range.start);
            let length = length.ok_or(io::ErrorKind::InvalidInput)?;
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let (now, later) = rest
                .split_at_mut_checked(length)
                .ok_or(io::ErrorKind::InvalidInput)?;
            self.read_at(range.start, now)?;
            rest = later;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of ones, and a scratch with twos on the given pages.
    fn memory(pages: u64, written: &[u64]) -> (tempfile::TempDir, ScratchMemory) {
        let dir = tempfile::tempdir().unwrap();
        let (image, scratch) = (dir.path().join("image"), dir.path().join("scratch"));
        let length = pages * PAGE;
        std::fs::write(&image, vec![1; usize::try_from(length).unwrap()]).unwrap();
        let file = File::create(&scratch).unwrap();
        file.set_len(length).unwrap();
        for page in written {
            file.write_all_at(&[2; 4096], page * PAGE).unwrap();
        }
        let memory = ScratchMemory::open(&scratch, &image, length).unwrap();
        (dir, memory)
    }

    #[test]
    fn what_is_no_hole_was_written() {
        let (_dir, it) = memory(64, &[3, 4, 40, 63]);
        let runs: Vec<_> = it.runs().iter().map(|r| (r.offset, r.length)).collect();
        let page = |number: u64, pages: u64| (number * PAGE, pages * PAGE);
        assert_eq!(runs, [page(3, 2), page(40, 1), page(63, 1)]);
        assert_eq!(it.len(), 4 * PAGE);
        let (_dir, none) = memory(8, &[]);
        assert!(none.is_empty());
    }

    #[test]
    fn reads_are_of_the_written_page_or_else_the_image() {
        let (_dir, it) = memory(16, &[0, 3, 4, 15]);
        let mut all = vec![0; 16 * 4096];
        it.read_at(0, &mut all).unwrap();
        for page in 0..16 {
            let expected = if [0, 3, 4, 15].contains(&page) { 2 } else { 1 };
            assert!(
                all[page * 4096..][..4096].iter().all(|b| *b == expected),
                "{page}"
            );
        }
        // Not at a page's edge.
        let mut part = vec![0; 8000];
        it.read_at(2 * PAGE + 100, &mut part).unwrap();
        assert_eq!(part, all[2 * 4096 + 100..][..8000]);
        let mut two = vec![0; 3 * 4096];
        it.read_all(&[PAGE..2 * PAGE, 3 * PAGE..5 * PAGE], &mut two, 2)
            .unwrap();
        assert_eq!(two[..4096], all[4096..2 * 4096]);
        assert_eq!(two[4096..], all[3 * 4096..5 * 4096]);
    }

    #[test]
    fn nothing_is_read_beyond_the_end_or_of_another_length() {
        let (dir, it) = memory(4, &[1]);
        assert!(it.read_at(3 * PAGE, &mut [0; 4097]).is_err());
        assert!(it.read_at(u64::MAX, &mut [0; 2]).is_err());
        let first = 0..PAGE;
        let page = std::slice::from_ref(&first);
        assert!(it.read_all(page, &mut [0; 4095], 1).is_err());
        assert!(it.read_all(page, &mut [0; 4097], 1).is_err());
        let paths = ["scratch", "image"].map(|name| dir.path().join(name));
        assert!(ScratchMemory::open(&paths[0], &paths[1], 3 * PAGE).is_err());
    }
}
