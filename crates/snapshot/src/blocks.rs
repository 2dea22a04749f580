//! The blocks of disk layers by their content, to find pages of a memory among them:
//! a guest keeps in memory much of what it has just written to its disk.
//!
//! A block is known by a few words of its content, so that taking in a layer and
//! asking for a page cost a fraction of reading them; what seems to be found is
//! compared with the layer's file, byte for byte.

use crate::{
    difference::{PAGE, Source},
    sparse::{for_each_data_chunk, is_zero},
};
use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt};

/// Blocks that are known at most: 1 GiB of them.
const MAX_BLOCKS: usize = 1 << 18;
/// Words of a block that it is known by.
const WORDS: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub struct DiskBlocks {
    layers: Vec<(u32, File)>,
    /// The layer's place in the list, and the block.
    blocks: HashMap<u64, (usize, u32)>,
    /// Where the next page is likely to be.
    next: Option<(usize, u32)>,
    buffer: Vec<u8>,
}

impl DiskBlocks {
    /// Takes in the blocks of a layer that is written no more, by its number and data
    /// file. Of equal blocks the last one is found.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn add(&mut self, number: u32, data: File) -> io::Result<()> {
        let place = self.layers.len();
        let blocks = &mut self.blocks;
        for_each_data_chunk(&data, |offset, chunk| {
            for (block, bytes) in (offset / PAGE..).zip(chunk.chunks_exact(PAGE as usize)) {
                if let Ok(block) = u32::try_from(block)
                    && blocks.len() < MAX_BLOCKS
                    && !is_zero(bytes)
                {
                    blocks.insert(key(bytes), (place, block));
                }
            }
            Ok(())
        })?;
        self.layers.push((number, data));
        Ok(())
    }

    /// Where a page is found that is not all zeros.
    pub(crate) fn find(&mut self, page: &[u8]) -> io::Result<Option<Source>> {
        // The block after the last page's is tried first: it makes a longer run.
        let known = self.blocks.get(&key(page)).copied();
        for (place, block) in self.next.take().into_iter().chain(known) {
            if known.is_none() {
                break;
            }
            let (number, file) = &self.layers[place];
            self.buffer.resize(PAGE as usize, 0);
            let read = file.read_exact_at(&mut self.buffer, u64::from(block) * PAGE);
            match read {
                Ok(()) if self.buffer == page => {
                    self.next = block.checked_add(1).map(|next| (place, next));
                    return Ok(Some(Source::Disk {
                        layer: *number,
                        block,
                    }));
                }
                // Behind the last block.
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// A number that different content rarely shares: words from all over the page.
fn key(page: &[u8]) -> u64 {
    let step = page.len() / WORDS;
    let words = (0..WORDS).map(|number| {
        // Never the same place in each part, where many pages have the same.
        let at = number * step + (number * 24) % (step - 8);
        let mut word = [0; 8];
        word.copy_from_slice(&page[at..at + 8]);
        u64::from_le_bytes(word)
    });
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}
