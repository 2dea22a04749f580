//! The name server's answers fit into what they are sent in, and are answers.

#![no_main]

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use hearth_dns::Zone;
use libfuzzer_sys::fuzz_target;

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    Zone::new("e2b.example", vec![Ipv4Addr::new(192, 0, 2, 1).into()]).expect("a zone")
});

fuzz_target!(|query: &[u8]| {
    for limit in [None, Some(512)] {
        if let Some(answer) = ZONE.answer(query, limit) {
            assert!(limit.is_none_or(|limit| answer.len() <= limit));
            assert_eq!(answer.get(..2), query.get(..2), "the id");
            assert!(answer[2] & 0x80 != 0, "an answer, or two servers talk for ever");
        }
    }
});
