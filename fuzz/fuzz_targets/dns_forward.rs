//! Questions of guests, and what pretends to be a name server's answer.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (query, response) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
    hearth_egress::fuzzing::dns(query, response);
    // An answer repeats the question.
    hearth_egress::fuzzing::dns(query, &[query, response].concat());
});
