//! Whatever a VM process that was taken over says on its monitor is read or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let _ = hearth_machine::fuzzing::monitor_line(line);
});
