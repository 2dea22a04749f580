//! What a registry answers is understood or refused: manifests, configurations,
//! challenges, and the references that tenants write.

#![no_main]

use hearth_oci::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    hearth_oci::fuzzing::documents(body);
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = hearth_oci::fuzzing::challenge(text);
        if let Ok(reference) = text.parse::<Reference>() {
            assert!(!reference.registry.is_empty() && !reference.repository.contains(".."));
        }
    }
});
