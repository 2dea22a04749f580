use super::{format::MAGIC, *};
use crate::DiskBlocks;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::{fs::File, io};

const PAGES: u64 = 64;

/// A memory of `PAGES` pages: page `i` is filled with the byte `values[i]`.
fn memory(values: &[u8]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| std::iter::repeat_n(*value, PAGE as usize))
        .collect()
}

/// What a VM would see that maps the pieces over the image.
fn seen(image: &[u8], files: &[File], pieces: &[Piece]) -> Vec<u8> {
    let mut memory = image.to_vec();
    for piece in pieces {
        let range = piece.memory_offset as usize..(piece.memory_offset + piece.length) as usize;
        files[piece.file]
            .read_exact_at(&mut memory[range], piece.file_offset)
            .unwrap();
    }
    memory
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![3 => Just(0u8), 2 => 1u8..4], PAGES as usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Generations of written pages, each kept as a difference to the one before,
    /// compose to the last memory; so does every one of them.
    #[test]
    fn differences_compose(
        image in values(),
        generations in proptest::collection::vec(
            (values(), proptest::collection::vec((0..PAGES, 1..9u64), 0..8)), 1..5),
        limit in 1usize..9,
    ) {
        let image = memory(&image);
        let mut now = image.clone();
        let (mut files, mut pieces) = (Vec::new(), Vec::new());
        for (written, ranges) in generations {
            let written = memory(&written);
            let ranges: Vec<_> = ranges
                .into_iter()
                .map(|(start, pages)| start * PAGE..(start + pages).min(PAGES) * PAGE)
                .collect();
            for range in &ranges {
                let range = range.start as usize..range.end as usize;
                now[range.clone()].copy_from_slice(&written[range]);
            }
            let ranges = joined(ranges, limit);
            prop_assert!(ranges.len() <= limit);
            let file = tempfile::tempfile().unwrap();
            // Some of it is on a disk too, which has a hole and another order.
            let layer = tempfile::tempfile().unwrap();
            for page in (0..PAGES as usize).filter(|page| page % 16 < 10) {
                let block = (page + 24) % PAGES as usize + 3;
                let page = page * PAGE as usize;
                layer.write_all_at(&now[page..page + PAGE as usize], block as u64 * PAGE).unwrap();
            }
            let mut disk = DiskBlocks::default();
            disk.add(7, layer.try_clone().unwrap()).unwrap();
            let written = write(&file, PAGES * PAGE, &ranges, &mut disk, |offset, buffer| {
                let offset = offset as usize;
                buffer.copy_from_slice(&now[offset..offset + buffer.len()]);
                Ok(())
            }).unwrap();
            prop_assert_eq!(crate::sparse::digest(&file).unwrap(), written.digest);
            let index = written.index;
            prop_assert_eq!(file.metadata().unwrap().len(), index.file_bytes());
            prop_assert_eq!(Index::decode(&index.encode()), Ok(index.clone()));
            let layers = BTreeMap::from([(7, files.len() + 1)]);
            pieces = over(&index.pieces(files.len(), &layers), &pieces);
            files.extend([file, layer]);
            prop_assert!(pieces.windows(2).all(|pair| end(&pair[0]) <= pair[1].memory_offset));
            prop_assert!(seen(&image, &files, &pieces) == now);
        }
    }

    #[test]
    fn a_damaged_index_is_refused(at in 0usize..200, byte in 1u8.., cut in 0usize..200) {
        let runs = vec![
            Run { first_page: 3, pages: 2, source: Source::Data },
            Run { first_page: 9, pages: 20, source: Source::Zeros },
            Run { first_page: 30, pages: 8, source: Source::Disk { layer: 1, block: 9 } },
        ];
        let good = Index { memory_bytes: PAGES * PAGE, runs }.encode();
        let mut damaged = good.clone();
        let at = at % good.len();
        damaged[at] ^= byte;
        prop_assert!(Index::decode(&damaged).is_err());
        prop_assert!(Index::decode(&good[..cut % good.len()]).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Index::decode(&bytes);
        // With a right digest, so that the rest is looked at too.
        let mut signed = [MAGIC.as_slice(), &bytes].concat();
        let digest = blake3::hash(&signed);
        signed.extend(digest.as_bytes());
        let _ = Index::decode(&signed);
    }
}

#[test]
fn zeros_take_no_space() {
    let mut now = memory(&[7; PAGES as usize]);
    now[4 * PAGE as usize..40 * PAGE as usize].fill(0);
    let file = tempfile::tempfile().unwrap();
    let whole = std::iter::once(0..PAGES * PAGE).collect::<Vec<_>>();
    let mut disk = DiskBlocks::default();
    let index = write(&file, PAGES * PAGE, &whole, &mut disk, |offset, buffer| {
        let offset = offset as usize;
        buffer.copy_from_slice(&now[offset..offset + buffer.len()]);
        Ok(())
    })
    .unwrap()
    .index;
    assert_eq!(index.runs.len(), 3);
    assert_eq!(index.data_bytes(), 28 * PAGE);
    file.sync_all().unwrap();
    let allocated = crate::sparse::allocated_bytes(&file).unwrap();
    assert!(allocated <= 29 * PAGE, "{allocated}");
}

#[test]
fn what_is_on_disk_is_not_kept_again() {
    let bytes: Vec<u8> = (0..PAGES * PAGE)
        .map(|at| (at / PAGE * 7 + at % 251) as u8 | 1)
        .collect();
    let layer = tempfile::tempfile().unwrap();
    layer
        .write_all_at(&bytes[..48 * PAGE as usize], 100 * PAGE)
        .unwrap();
    let mut disk = DiskBlocks::default();
    disk.add(2, layer).unwrap();
    let file = tempfile::tempfile().unwrap();
    let whole = std::iter::once(0..PAGES * PAGE).collect::<Vec<_>>();
    let index = write(&file, PAGES * PAGE, &whole, &mut disk, |offset, buffer| {
        let offset = offset as usize;
        buffer.copy_from_slice(&bytes[offset..offset + buffer.len()]);
        Ok(())
    })
    .unwrap()
    .index;
    let on_disk = Source::Disk {
        layer: 2,
        block: 100,
    };
    assert_eq!(index.runs[0].source, on_disk);
    assert_eq!(index.runs[0].pages, 48);
    assert_eq!(index.data_bytes(), 16 * PAGE);
}

#[test]
fn an_index_of_the_first_version_is_read() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(4096u32.to_le_bytes());
    for number in [PAGES * PAGE, 2 * PAGE, 2] {
        bytes.extend(number.to_le_bytes());
    }
    for (first_page, pages, kind) in [(3u64, 2u32, 1u32), (9, 20, 2)] {
        bytes.extend(first_page.to_le_bytes());
        bytes.extend(pages.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
    }
    let sealed = |bytes: &[u8]| [bytes, blake3::hash(bytes).as_bytes()].concat();
    let index = Index::decode(&sealed(&bytes)).unwrap();
    let sources: Vec<Source> = index.runs.iter().map(|run| run.source).collect();
    assert_eq!(sources, [Source::Data, Source::Zeros]);
    // That version had no runs on disk, and there is no fourth kind in any.
    for kind in [3u8, 4] {
        let at = bytes.len() - 4;
        bytes[at] = kind;
        let error = Index::decode(&sealed(&bytes)).unwrap_err();
        assert!(error.contains("a run from nowhere"), "{error}");
    }
}

#[test]
fn the_number_of_runs_is_bounded() {
    // The worst that there is: zeros and data in turns, each as short as it may be.
    const MANY: u64 = 200_000;
    let file = tempfile::tempfile().unwrap();
    let mut disk = DiskBlocks::default();
    let whole = std::iter::once(0..MANY * PAGE).collect::<Vec<_>>();
    let read = |offset: u64, buffer: &mut [u8]| {
        for (page, bytes) in (offset / PAGE..).zip(buffer.chunks_mut(PAGE as usize)) {
            bytes.fill(u8::from(page % 9 == 0));
        }
        Ok(())
    };
    let index = write(&file, MANY * PAGE, &whole, &mut disk, read)
        .unwrap()
        .index;
    assert!(index.runs.len() <= 2 * 3000 + 1, "{}", index.runs.len());
    assert_eq!(Index::decode(&index.encode()), Ok(index));
}

#[test]
fn an_error_of_either_side_ends_both() {
    const MANY: u64 = 20_000;
    let mut disk = DiskBlocks::default();
    let whole = std::iter::once(0..MANY * PAGE).collect::<Vec<_>>();
    let unreadable = |offset: u64, buffer: &mut [u8]| {
        buffer.fill(1);
        match offset < MANY * PAGE / 2 {
            true => Ok(()),
            false => Err(io::Error::other("the VM is gone")),
        }
    };
    let file = tempfile::tempfile().unwrap();
    let error = write(&file, MANY * PAGE, &whole, &mut disk, unreadable).unwrap_err();
    assert!(error.to_string().contains("the VM is gone"), "{error}");
    let readable = |_: u64, buffer: &mut [u8]| {
        buffer.fill(1);
        Ok(())
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read-only");
    std::fs::write(&path, []).unwrap();
    let file = File::open(path).unwrap();
    assert!(write(&file, MANY * PAGE, &whole, &mut disk, readable).is_err());
}
