//! A build's manifest is whole or refused.

#![no_main]

use hearth_snapshot::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        for entry in &manifest.files {
            assert!(!entry.name.contains('/') && entry.name != "..", "{}", entry.name);
        }
    }
});
