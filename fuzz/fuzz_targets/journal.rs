//! A journal that can be read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    hearth_node::fuzzing::journal(bytes);
});
