//! Settings are read or refused; times are parsed or not.

#![no_main]

use hearth_guest::http::init;
use hearth_guest::sys::clock;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(request) = init::parse(body)
        && let Some(time) = request.timestamp.as_deref()
    {
        let _ = clock::parse_rfc3339(time);
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = clock::parse_rfc3339(text);
    }
});
