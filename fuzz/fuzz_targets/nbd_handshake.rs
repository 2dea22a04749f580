//! Any bytes from a client, whole and in two pieces, lead to the same end.

#![no_main]

use hearth_block::nbd::ExportInfo;
use hearth_block::nbd::handshake::{Handshake, Progress};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let whole = shake(bytes, bytes.len());
    let pieces = shake(bytes, usize::from(cut) % (bytes.len() + 1));
    assert_eq!(whole, pieces);
});

/// How it ended, and what was sent; `None` after a breach of the protocol.
fn shake(bytes: &[u8], cut: usize) -> (Option<Progress>, Vec<u8>) {
    let export = ExportInfo { name: "disk".into(), size_bytes: 1 << 20, read_only: false };
    let mut output = Vec::new();
    let mut handshake = Handshake::start(export, &mut output);
    let mut consumed = 0;
    for end in [cut, bytes.len()] {
        match handshake.advance(&bytes[consumed..end], &mut output) {
            Ok((count, Progress::Pending)) => consumed += count,
            Ok((count, done)) => {
                assert!(consumed + count <= end);
                return (Some(done), output);
            }
            Err(_) => return (None, output),
        }
    }
    (Some(Progress::Pending), output)
}
