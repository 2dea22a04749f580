//! No index, however forged, names blocks outside its device.

#![no_main]

use hearth_block::BLOCK_SIZE;
use hearth_block::layer::index::replay;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(replay) = replay(bytes) else { return };
    assert!(replay.committed <= replay.marks.len());
    let blocks = replay.header.size_bytes / BLOCK_SIZE;
    for mark in &replay.marks {
        assert!(mark.blocks.start < mark.blocks.end && mark.blocks.end <= blocks);
    }
});
