//! What the parser lets through lies inside the export.

#![no_main]

use hearth_block::nbd::request::{Command, Request};
use hearth_block::nbd::{ExportInfo, MAX_PAYLOAD_BYTES, Session};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, u64, &[u8])| {
    let (read_only, block_status, size_bytes, bytes) = input;
    let export = ExportInfo { name: "disk".into(), size_bytes, read_only };
    let session = Session { structured_replies: block_status, block_status };
    let Ok(Some(request)) = Request::parse(bytes, &export, session) else { return };
    match request.command {
        Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. } => {
            assert!(!read_only);
        }
        Command::Read => assert!(request.length <= MAX_PAYLOAD_BYTES),
        Command::BlockStatus { .. } => assert!(block_status),
        Command::Flush | Command::Disconnect | Command::Refused(_) => return,
    }
    assert!(request.offset.checked_add(request.length.into()).is_some_and(|end| end <= size_bytes));
});
