//! Whom a request is for, and what of its head passes: nothing of one connection does.

#![no_main]

use hearth_edge::fuzzing::{asks_for_upgrade, strip_hop_by_hop};
use hearth_edge::target::classify;
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut first = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let (method, uri) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let request = Request::builder().method(method).uri(uri).body(());
    let Ok(request) = request else { return };
    let (mut head, ()) = request.into_parts();
    for line in lines.take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            head.headers.append(name, value);
        }
    }
    let _ = (classify(&head), asks_for_upgrade(&head.headers));
    let hosts = head.headers.get_all(HOST).iter().count();
    strip_hop_by_hop(&mut head.headers);
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        assert!(!head.headers.contains_key(&name), "{name}");
    }
    assert_eq!(head.headers.get_all(HOST).iter().count(), hosts);
});
