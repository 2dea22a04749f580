//! What a guest reports of itself is believed within bounds, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (after, bytes) = input;
    hearth_telemetry::fuzzing::line(bytes, after);
});
