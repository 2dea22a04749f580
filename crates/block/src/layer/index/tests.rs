//! The index's format: what is written is read, what is damaged is not.

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 1000 * BLOCK_SIZE;

fn header() -> Header {
    Header {
        size_bytes: SIZE,
        boot_id: [1; 16],
        layer_id: [2; 16],
        sealed_records: None,
    }
}

fn marks() -> impl Strategy<Value = Vec<Mark>> {
    let mark = (0u64..1000, 1u64..100, any::<bool>()).prop_map(|(start, count, data)| Mark {
        state: if data { State::Data } else { State::Zero },
        blocks: start..(start + count).min(1000),
    });
    prop::collection::vec(mark, 0..20)
}

/// A log with a commit after each mark whose number is in `commits`.
fn log(marks: &[Mark], commits: &[usize]) -> Vec<u8> {
    let mut encoder = encode_new(&header());
    for (number, mark) in marks.iter().enumerate() {
        encoder.mark(mark.state, mark.blocks.clone());
        if commits.contains(&number) {
            encoder.commit(number as u64 + 1);
        }
    }
    encoder.bytes
}

proptest! {
    #[test]
    fn a_log_is_read_up_to_its_damage(
        marks in marks(), commits in prop::collection::vec(0usize..20, 0..5),
        damage in (any::<prop::sample::Index>(), 1u8..=255),
    ) {
        let bytes = log(&marks, &commits);
        let whole = replay(&bytes).unwrap();
        prop_assert_eq!(&whole.marks, &marks);
        let last = commits.iter().filter(|number| **number < marks.len()).max();
        prop_assert_eq!(whole.committed, last.map_or(0, |number| number + 1));
        prop_assert_eq!(whole.valid_bytes, bytes.len() as u64);

        let mut damaged = bytes.clone();
        let at = damage.0.index(bytes.len());
        damaged[at] ^= damage.1;
        match replay(&damaged) {
            Err(_) => prop_assert!(at < HEADER_BYTES),
            Ok(part) => {
                prop_assert!(at >= HEADER_BYTES);
                let whole_records = (at - HEADER_BYTES) / RECORD_BYTES;
                prop_assert_eq!(part.valid_bytes as usize, HEADER_BYTES + whole_records * RECORD_BYTES);
                prop_assert_eq!(&part.marks[..], &marks[..part.marks.len()]);
                prop_assert!(part.committed <= part.marks.len());
            }
        }
        let cut = &bytes[..at.max(HEADER_BYTES)];
        let part = replay(cut).unwrap();
        prop_assert_eq!(&part.marks[..], &marks[..part.marks.len()]);
    }

    #[test]
    fn a_sealed_index_is_read_whole_or_not_at_all(
        marks in marks(), damage in (any::<prop::sample::Index>(), 1u8..=255),
    ) {
        let bytes = encode_sealed(&header(), marks.iter().cloned());
        let whole = replay(&bytes).unwrap();
        prop_assert_eq!(&whole.marks, &marks);
        prop_assert_eq!(whole.header.sealed_records, Some(marks.len() as u64));
        prop_assert_eq!(whole.committed, marks.len());
        let at = damage.0.index(bytes.len());
        let mut damaged = bytes.clone();
        damaged[at] ^= damage.1;
        prop_assert!(replay(&damaged).is_err());
        prop_assert!(replay(&bytes[..at]).is_err());
        prop_assert!(replay(&[&bytes[..], &[0; 16]].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..400), forged: bool,
        records in prop::collection::vec((0u32..4, 0u64..1 << 30, any::<u64>()), 0..8),
    ) {
        let mut input = bytes.clone();
        if forged {
            // Valid checksums over invalid contents.
            let mut encoder = encode_new(&header());
            for (kind, count, value) in records {
                encoder.record(kind, count, value);
            }
            input = encoder.bytes;
        }
        if let Ok(replay) = replay(&input) {
            prop_assert!(replay.marks.iter().all(|mark| mark.blocks.end <= 1000 || !forged));
            prop_assert!(replay.committed <= replay.marks.len());
        }
    }
}

/// The bytes of a small layer, so that a change of the format is noticed.
#[test]
fn the_format_does_not_change_unnoticed() {
    let marks = [
        Mark {
            state: State::Data,
            blocks: 1..3,
        },
        Mark {
            state: State::Zero,
            blocks: 5..900,
        },
    ];
    let text = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let log = log(&marks, &[0]);
    assert_eq!(
        text(&log[..24]),
        "485254484c4159520100000000100000".to_owned() + "00803e0000000000"
    );
    assert_eq!(text(&log[128..]), include_str!("log.hex").trim());
    let sealed = encode_sealed(&header(), marks.into_iter());
    assert_eq!(text(&sealed[56..72]), "01000000000000000200000000000000");
    assert_eq!(text(&sealed[124..]), include_str!("sealed.hex").trim());
}
