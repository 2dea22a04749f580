//! The memory that a restored VM wrote: found through the kernel's page tables.
//!
//! The guest's memory is a private mapping of the image file. A page that the guest only
//! read is still the file's page; one that it wrote was copied and is anonymous. The
//! entries of `/proc/PID/pagemap` tell the two apart (kernel documentation,
//! `admin-guide/mm/pagemap`): bit 63 present, bit 62 swapped, bit 61 file page. So the
//! pages with bit 63 or 62 set and bit 61 clear are exactly those written since the
//! restore, and finding them costs eight bytes of reading per page of guest memory.
//!
//! Where pieces of other files stand over the image, the mappings of all of them together
//! are the memory, without gaps; an offset is the distance from the first one's start.
//!
//! The VM must stay paused from the search until the last read. Nothing here depends on
//! the engine, only on the private file mapping.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

const PAGE: u64 = 4096;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_PAGE: u64 = 1 << 61;
/// Entries read at a time.
const CHUNK: usize = 16 * 1024;
/// The most bytes of one piece, and of all pieces of one call, when memory is copied.
const PIECE_BYTES: u64 = 1 << 20;
const BATCH_BYTES: usize = 8 << 20;
/// The most pieces of one call; the kernel allows 1024.
const BATCH_PIECES: usize = 512;
/// Bytes that are worth a thread.
const SHARE_BYTES: usize = 8 << 20;

/// Consecutive pages in the memory image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Where the run starts, in bytes from the start of the memory image; a multiple of
    /// 4096.
    pub offset: u64,
    /// Length in bytes, a multiple of 4096, not 0.
    pub length: u64,
}

/// Memory that a paused VM wrote since it was restored. Valid while it stays paused.
pub trait DirtyMemory: std::fmt::Debug + Send + Sync {
    /// The written pages in rising order of offset; neighbours are joined.
    fn runs(&self) -> &[PageRun];

    /// Sum of the runs' lengths in bytes.
    fn len(&self) -> u64 {
        self.runs().iter().map(|run| run.length).sum()
    }

    /// Whether nothing was written.
    fn is_empty(&self) -> bool {
        self.runs().is_empty()
    }

    /// Reads guest memory at `offset` of the image, written or not. Blocking.
    ///
    /// # Errors
    /// When the range is not within the guest's memory, or the memory is gone.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Reads ranges of the image, one after the other, into a buffer of just their
    /// length, as fast as memory is copied. Blocking, on up to `threads` threads.
    ///
    /// # Errors
    /// As [`DirtyMemory::read_at`], or when the lengths differ.
    fn read_all(&self, ranges: &[Range<u64>], buffer: &mut [u8], threads: usize) -> io::Result<()>;
}

/// The written pages of a private mapping of files, in the address space of the VM's
/// process.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    pid: Pid,
    runs: Vec<PageRun>,
    mapping: Mapping,
    memory: File,
}

/// The guest's memory in the process's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
}

impl ProcessMemory {
    /// Searches the address space of `pid` for private mappings of the files, which
    /// together make a memory of `length` bytes. Blocks for some milliseconds per GiB.
    pub(crate) fn find(pid: u32, files: &[&Path], length: u64) -> io::Result<Self> {
        let mapping = joined(mappings_of(pid, files)?, length)?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut runs = Vec::new();
        search(&pagemap, mapping, &mut runs)?;
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        Ok(Self {
            pid: Pid::from_raw(pid),
            runs,
            mapping,
            memory,
        })
    }
}

impl DirtyMemory for ProcessMemory {
    fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Mapping { start, end } = self.mapping;
        let fits = offset
            .checked_add(buffer.len() as u64)
            .is_some_and(|last| last <= end - start);
        if !fits {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.memory.read_exact_at(buffer, start + offset)
    }

    fn read_all(&self, ranges: &[Range<u64>], buffer: &mut [u8], threads: usize) -> io::Result<()> {
        let Mapping { start, end } = self.mapping;
        let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        if total != buffer.len() as u64
            || ranges
                .iter()
                .any(|range| range.start > range.end || range.end > end - start)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let quota = (buffer.len() / threads.max(1)).max(SHARE_BYTES);
        let mut shares = Vec::new();
        let (mut remote, mut bytes, mut rest) = (Vec::new(), 0, buffer);
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let length = (range.end - at).min(PIECE_BYTES);
                let len = usize::try_from(length).map_err(io::Error::other)?;
                let base = usize::try_from(start + at).map_err(io::Error::other)?;
                remote.push(RemoteIoVec { base, len });
                bytes += len;
                at += length;
                if bytes >= quota {
                    let (now, later) = rest.split_at_mut(bytes);
                    let remote = std::mem::take(&mut remote);
                    shares.push(Share {
                        remote,
                        buffer: now,
                    });
                    (bytes, rest) = (0, later);
                }
            }
        }
        shares.push(Share {
            remote,
            buffer: rest,
        });
        let pid = self.pid;
        std::thread::scope(|scope| {
            let running: Vec<_> = shares
                .into_iter()
                .map(|share| scope.spawn(move || share.copy(pid)))
                .collect();
            running.into_iter().try_for_each(|thread| {
                let ended = thread.join();
                ended.unwrap_or_else(|_| Err(io::Error::other("a copying thread panicked")))
            })
        })?;
        // Those copies went by process id. The open file goes by the process itself: it
        // is still there, so the id was its own all the time.
        let mut byte = [0];
        self.read_at(0, &mut byte)
    }
}

/// What one thread of [`DirtyMemory::read_all`] copies.
struct Share<'a> {
    /// Addresses in the process.
    remote: Vec<RemoteIoVec>,
    buffer: &'a mut [u8],
}

impl Share<'_> {
    fn copy(self, pid: Pid) -> io::Result<()> {
        let mut rest = self.buffer;
        let mut remote = self.remote.into_iter().peekable();
        while !rest.is_empty() {
            // Bounded in pieces and in bytes, for a call to be whole or to fail.
            let mut batch = Vec::with_capacity(BATCH_PIECES);
            let mut bytes = 0;
            while let Some(piece) = remote
                .next_if(|piece| batch.len() < BATCH_PIECES && bytes + piece.len <= BATCH_BYTES)
            {
                bytes += piece.len;
                batch.push(piece);
            }
            let (now, later) = rest.split_at_mut(bytes);
            let copied = process_vm_readv(pid, &mut [IoSliceMut::new(now)], &batch)?;
            if copied != bytes || bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = later;
        }
        Ok(())
    }
}

/// The private mappings of any of the files as address ranges.
fn mappings_of(pid: u32, files: &[&Path]) -> io::Result<Vec<(u64, u64)>> {
    let mut wanted = HashSet::new();
    for file in files {
        let file = fs::metadata(file)?;
        wanted.insert((file.dev(), file.ino()));
    }
    let inodes: HashSet<u64> = wanted.iter().map(|(_, inode)| *inode).collect();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    // The device column differs from stat's on some file systems; the link does not. One
    // look per pair is enough: a VM may have thousands of mappings.
    let mut known: HashMap<(&str, u64), bool> = HashMap::new();
    let mut mappings = Vec::new();
    for found in maps.lines().filter_map(parse_mapping) {
        if !inodes.contains(&found.inode) {
            continue;
        }
        let ours = match known.entry((found.device, found.inode)) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let file = fs::metadata(format!("/proc/{pid}/map_files/{}", found.range))?;
                *entry.insert(wanted.contains(&(file.dev(), file.ino())))
            }
        };
        if ours {
            mappings.push((found.start, found.end));
        }
    }
    mappings.sort_unstable();
    Ok(mappings)
}

/// Joins neighbours; what remains must be one range of the wanted length.
fn joined(mappings: Vec<(u64, u64)>, length: u64) -> io::Result<Mapping> {
    let Some((first, _)) = mappings.first().copied() else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the image is not mapped",
        ));
    };
    let mut end = first;
    for mapping in mappings {
        if mapping.0 != end {
            break;
        }
        end = mapping.1;
    }
    if end - first != length {
        let why = format!("{} bytes of {length} are mapped", end - first);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Mapping { start: first, end })
}

/// A private writable mapping in `maps`.
#[derive(Debug, PartialEq, Eq)]
struct Found<'a> {
    range: &'a str,
    start: u64,
    end: u64,
    device: &'a str,
    inode: u64,
}

/// Parses a line of proc(5)'s `maps` if it is a private writable mapping:
/// `start-end perms offset device inode path`.
fn parse_mapping(line: &str) -> Option<Found<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let range = fields.next()?;
    if fields.next()? != "rw-p" {
        return None;
    }
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let device = fields.nth(1)?;
    let inode = fields.next()?.parse().ok()?;
    let (start, end) = range.split_once('-')?;
    Some(Found {
        range,
        start: hex(start)?,
        end: hex(end)?,
        device,
        inode,
    })
}

fn search(pagemap: &File, mapping: Mapping, runs: &mut Vec<PageRun>) -> io::Result<()> {
    let mut chunk = vec![0_u8; CHUNK * 8];
    let mut address = mapping.start;
    while address < mapping.end {
        let pages = usize::try_from((mapping.end - address) / PAGE)
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let bytes = &mut chunk[..pages * 8];
        pagemap.read_exact_at(bytes, address / PAGE * 8)?;
        let offset = address - mapping.start;
        collect(bytes, offset, runs);
        address += pages as u64 * PAGE;
    }
    Ok(())
}

/// Adds the written pages among these pagemap entries, the first of which is for `offset`.
fn collect(entries: &[u8], mut offset: u64, runs: &mut Vec<PageRun>) {
    for entry in entries.as_chunks::<8>().0 {
        let entry = u64::from_ne_bytes(*entry);
        if entry & (PRESENT | SWAPPED) != 0 && entry & FILE_PAGE == 0 {
            match runs.last_mut() {
                Some(run) if run.offset + run.length == offset => run.length += PAGE,
                _ => runs.push(PageRun {
                    offset,
                    length: PAGE,
                }),
            }
        }
        offset += PAGE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_private_writable_mappings_count() {
        let line = "7f00000000-7f00004000 rw-p 00002000 fe:00 42    /a b/memory.img";
        let found = Found {
            range: "7f00000000-7f00004000",
            start: 0x7f_0000_0000,
            end: 0x7f_0000_4000,
            device: "fe:00",
            inode: 42,
        };
        assert_eq!(parse_mapping(line), Some(found));
        assert_eq!(parse_mapping(&line.replace("rw-p", "rw-s")), None);
        assert_eq!(parse_mapping(&line.replace("rw-p", "r--p")), None);
    }

    #[test]
    fn a_memory_with_a_gap_is_refused() {
        let whole = joined(vec![(10, 20), (20, 50)], 40).unwrap();
        assert_eq!((whole.start, whole.end), (10, 50));
        assert!(joined(vec![(10, 20), (21, 50)], 40).is_err());
        assert!(joined(vec![(10, 20), (20, 50)], 41).is_err());
        assert!(joined(Vec::new(), 40).is_err());
    }

    #[test]
    fn a_written_page_of_this_process_is_found_and_read() {
        use std::io::{Read, Seek, Write};
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 8 * 4096]).unwrap();
        // A child that maps the file privately and writes its third and fourth page.
        let script = "import mmap,sys\n\
            f=open(sys.argv[1],'rb')\n\
            m=mmap.mmap(f.fileno(),0,access=mmap.ACCESS_COPY)\n\
            m[0]\n\
            m[2*4096:4*4096]=b'w'*8192\n\
            print('ready',flush=True)\n\
            sys.stdin.read()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(file.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        let dirty = ProcessMemory::find(child.id(), &[file.path()], 8 * PAGE).unwrap();
        assert_eq!(
            dirty.runs(),
            [PageRun {
                offset: 2 * PAGE,
                length: 2 * PAGE
            }]
        );
        let mut bytes = [0; 2];
        dirty.read_at(4 * PAGE - 1, &mut bytes).unwrap();
        assert_eq!(bytes, [b'w', 7]);
        assert!(dirty.read_at(8 * PAGE - 1, &mut bytes).is_err());
        let mut all = vec![0; 3 * 4096];
        let ranges = [PAGE..3 * PAGE, 4 * PAGE..5 * PAGE];
        dirty.read_all(&ranges, &mut all, 2).unwrap();
        assert!(all[..4096].iter().all(|byte| *byte == 7));
        assert!(all[4096..8192].iter().all(|byte| *byte == b'w'));
        assert!(all[8192..].iter().all(|byte| *byte == 7));
        let outside = dirty.read_all(
            std::slice::from_ref(&(7 * PAGE..9 * PAGE)),
            &mut all[..8192],
            2,
        );
        assert!(outside.is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        file.rewind().unwrap();
        let mut whole = Vec::new();
        file.read_to_end(&mut whole).unwrap();
        assert!(whole.iter().all(|byte| *byte == 7));
    }

    proptest! {
        #[test]
        fn runs_cover_exactly_the_written_pages(pages in prop::collection::vec(0_u64..8, 0..200)) {
            let entries: Vec<u8> = pages.iter().flat_map(|bits| (bits << 61).to_ne_bytes()).collect();
            let mut runs = Vec::new();
            collect(&entries, 0, &mut runs);
            for (number, bits) in pages.iter().enumerate() {
                let offset = number as u64 * PAGE;
                let covered = runs.iter().filter(|run| (run.offset..run.offset + run.length).contains(&offset)).count();
                prop_assert_eq!(covered, usize::from(matches!(bits, 2 | 4 | 6)));
            }
            prop_assert!(runs.windows(2).all(|pair| pair[0].offset + pair[0].length < pair[1].offset));
        }
    }
}
