//! The protocol against what clients may send, whole and in pieces.

use proptest::prelude::*;

use super::handshake::{Handshake, Progress};
use super::reply::ReadHeader;
use super::request::{Command, Errno, REQUEST_BYTES, Request};
use super::*;

fn export() -> ExportInfo {
    ExportInfo {
        name: "disk".into(),
        size_bytes: 1 << 20,
        read_only: false,
    }
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn go(kind: u32, name: &str, info: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(info.len() as u16).to_be_bytes());
    info.iter()
        .for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
    option(kind, &data)
}

fn contexts(kind: u32, queries: &[&str]) -> Vec<u8> {
    let mut data = b"\0\0\0\x04disk".to_vec();
    data.extend_from_slice(&(queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    option(kind, &data)
}

/// Sends the bytes in pieces of that size; returns the end, what was sent back
/// after the greeting, and how much was consumed.
fn shake(bytes: &[u8], piece: usize) -> (Result<Progress, ProtocolError>, Vec<u8>, usize) {
    let mut output = Vec::new();
    let mut handshake = Handshake::start(export(), &mut output);
    assert_eq!(output.len(), 18);
    output.clear();
    let mut consumed = 0;
    let mut arrived = 0;
    while arrived < bytes.len() {
        arrived = (arrived + piece).min(bytes.len());
        match handshake.advance(&bytes[consumed..arrived], &mut output) {
            Ok((count, Progress::Pending)) => consumed += count,
            Ok((count, done)) => return (Ok(done), output, consumed + count),
            // How much was consumed before an error is nobody's business.
            Err(error) => return (Err(error), output, 0),
        }
    }
    (Ok(Progress::Pending), output, consumed)
}

/// The kinds of the option replies and their bodies.
fn replies(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let mut reader = Reader(bytes);
        assert_eq!(reader.u64(), Some(0x0003_e889_0455_65a9));
        reader.u32().expect("the option");
        let kind = reader.u32().expect("a kind");
        let length = reader.u32().expect("a length");
        replies.push((kind, reader.take(length as usize).expect("a body").to_vec()));
        bytes = reader.0;
    }
    replies
}

const ACK: u32 = 1;
const ERR: u32 = 1 << 31;

#[test]
fn options_are_haggled_over() {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option(5, &[]));
    bytes.extend(option(3, &[]));
    bytes.extend(option(3, b"x"));
    bytes.extend(option(4242, b"what"));
    bytes.extend(contexts(10, &["base:allocation"]));
    bytes.extend(option(8, &[]));
    bytes.extend(contexts(9, &[]));
    bytes.extend(contexts(10, &["qemu:dirty-bitmap:x", "base:allocation"]));
    bytes.extend(go(6, "other", &[]));
    bytes.extend(go(6, "disk", &[3]));
    bytes.extend(go(7, "disk", &[1]));
    bytes.extend_from_slice(b"the first request");
    for piece in [1, 7, bytes.len()] {
        let (progress, output, consumed) = shake(&bytes, piece);
        let session = Session {
            structured_replies: true,
            block_status: true,
        };
        assert_eq!(progress, Ok(Progress::Ready(session)));
        assert_eq!(&bytes[consumed..], b"the first request");
        let kinds: Vec<u32> = replies(&output).iter().map(|(kind, _)| *kind).collect();
        let info = [3, 3, ACK];
        let name = [3, 3, 3, ACK];
        let before = [
            ERR | 2,
            2,
            ACK,
            ERR | 3,
            ERR | 1,
            ERR | 3,
            ACK,
            4,
            ACK,
            4,
            ACK,
            ERR | 6,
        ];
        assert_eq!(kinds, [&before[..], &info[..], &name[..]].concat());
    }
}

#[test]
fn the_old_way_in_and_the_way_out() {
    let mut bytes = 1u32.to_be_bytes().to_vec();
    bytes.extend(option(1, b""));
    let (progress, output, _) = shake(&bytes, 3);
    assert_eq!(progress, Ok(Progress::Ready(Session::default())));
    assert_eq!(
        (output.len(), &output[..8]),
        (134, &(1u64 << 20).to_be_bytes()[..])
    );
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option(2, &[]));
    let (progress, output, _) = shake(&bytes, 3);
    assert_eq!(progress, Ok(Progress::Closed));
    assert_eq!(replies(&output), [(ACK, Vec::new())]);
}

#[test]
fn malformed_handshakes_are_told_apart() {
    let start = 3u32.to_be_bytes().to_vec();
    let with = |rest: &[u8]| [&start, rest].concat();
    let cases = [
        (vec![0; 4], ProtocolError::NotFixedNewstyle),
        (vec![0xff; 4], ProtocolError::ClientFlags(u32::MAX)),
        (
            with(b"HAVEOPTS"),
            ProtocolError::OptionMagic(u64::from_be_bytes(*b"HAVEOPTS")),
        ),
        (with(&option(1, b"other")), ProtocolError::UnknownExport),
        (
            with(&option(2, &[0; 20_000])),
            ProtocolError::OptionLength(20_000),
        ),
        (
            with(&option(3, &[]).repeat(65)),
            ProtocolError::TooManyOptions,
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(shake(&bytes, 1000).0, Err(error));
    }
}

#[test]
fn reads_are_framed_as_agreed() {
    let simple = ReadHeader::new(Session::default(), 7, 0, 512);
    assert_eq!(simple.as_bytes().len(), 16);
    let session = Session {
        structured_replies: true,
        block_status: false,
    };
    let chunk = ReadHeader::new(session, 7, 4096, 512);
    assert_eq!(chunk.as_bytes()[16..20], 520u32.to_be_bytes());
    assert_eq!(chunk.as_bytes()[20..], 4096u64.to_be_bytes());
}

proptest! {
    #[test]
    fn any_handshake_is_survived_and_pieces_do_not_matter(
        parts in prop::collection::vec(prop_oneof![
            (0u32..12, prop::collection::vec(any::<u8>(), 0..24))
                .prop_map(|(kind, data)| option(kind, &data)),
            (6u32..8, prop::collection::vec(any::<u16>(), 0..4))
                .prop_map(|(kind, info)| go(kind, "disk", &info)),
            (9u32..11).prop_map(|kind| contexts(kind, &["base:allocation"])),
            prop::collection::vec(any::<u8>(), 0..20),
        ], 0..8),
        flags in prop_oneof![8 => Just(3u32), 1 => any::<u32>()],
        piece in 1usize..40,
    ) {
        let mut bytes = flags.to_be_bytes().to_vec();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        let whole = shake(&bytes, bytes.len());
        prop_assert!(whole.2 <= bytes.len());
        prop_assert_eq!(shake(&bytes, piece), whole);
    }

    #[test]
    fn a_parsed_request_can_be_carried_out(
        flags in 0u16..32, kind in 0u16..10, cookie: u64,
        offset in prop_oneof![0u64..2 << 20, any::<u64>()],
        length in prop_oneof![0u32..2 << 20, any::<u32>()],
        read_only: bool, block_status: bool,
    ) {
        let export = ExportInfo { read_only, ..export() };
        let session = Session { structured_replies: block_status, block_status };
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        prop_assert_eq!(bytes.len(), REQUEST_BYTES);
        for cut in 0..bytes.len() {
            prop_assert_eq!(Request::parse(&bytes[..cut], &export, session), Ok(None));
        }
        prop_assert_eq!(Request::has_payload(&bytes), kind == 1);
        match Request::parse(&bytes, &export, session) {
            Err(error) => {
                prop_assert_eq!(error, ProtocolError::PayloadLength(length));
                prop_assert!(kind == 1 && length > MAX_PAYLOAD_BYTES);
            }
            Ok(None) => prop_assert!(false, "the request is whole"),
            Ok(Some(request)) => {
                prop_assert_eq!((request.cookie, request.offset, request.length), (cookie, offset, length));
                let writes = matches!(
                    request.command,
                    Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
                );
                prop_assert!(!(writes && read_only));
                if writes || matches!(request.command, Command::Read | Command::BlockStatus { .. }) {
                    prop_assert!(offset + u64::from(length) <= export.size_bytes);
                }
                if request.command == Command::Read {
                    prop_assert!(length <= MAX_PAYLOAD_BYTES);
                }
                prop_assert!(kind != 7 || block_status || request.command == Command::Refused(Errno::Inval));
            }
        }
    }
}

#[test]
fn zeros_that_keep_their_space_count_as_written() {
    let request = |command| Request {
        command,
        cookie: 1,
        offset: 0,
        length: 1 << 30,
    };
    let zeroes = |no_hole| {
        request(Command::WriteZeroes {
            fua: false,
            no_hole,
        })
    };
    assert_eq!(zeroes(true).written_bytes(), 1 << 30);
    assert_eq!(zeroes(false).written_bytes(), 0);
    assert_eq!(request(Command::Flush).written_bytes(), 0);
}
