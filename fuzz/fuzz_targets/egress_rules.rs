//! What a tenant says that a sandbox may reach is understood or refused.

#![no_main]

use hearth_egress::Rules;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Rules::parse(None, text);
});
