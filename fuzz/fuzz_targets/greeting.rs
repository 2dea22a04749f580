//! What the first bytes of a guest's connection say does not depend on how many more
//! there are, and the host is a name in its normal form.

#![no_main]

use hearth_egress::fuzzing::{greeting, normal_name, proxy_address};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (incomplete, name) = greeting(bytes);
    if let Some(name) = &name {
        assert!(!incomplete);
        assert_eq!(normal_name(name).as_ref(), Some(name));
    }
    let (earlier, earlier_name) = greeting(&bytes[..usize::from(cut) % (bytes.len() + 1)]);
    assert!(earlier || (!incomplete && earlier_name == name));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = proxy_address(text);
    }
});
