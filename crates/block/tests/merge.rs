//! A merged layer shows exactly what the chain of layers showed.

#![expect(clippy::unwrap_used, reason = "tests")]

use hearth_block::{BLOCK_SIZE, Device, DeviceConfig, WritableConfig, merge};
use proptest::prelude::*;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const BLOCKS: u64 = 40;
const SIZE: u64 = BLOCKS * BLOCK_SIZE;

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, length: u64, byte: u8 },
    Zero { offset: u64, length: u64 },
    Discard { offset: u64, length: u64 },
    Seal,
}

fn change() -> impl Strategy<Value = Change> {
    let range = (0..SIZE, 1..9 * BLOCK_SIZE).prop_map(|(offset, length)| {
        let length = length.min(SIZE - offset);
        (offset, length)
    });
    prop_oneof![
        4 => (range.clone(), any::<u8>())
            .prop_map(|((offset, length), byte)| Change::Write { offset, length, byte }),
        1 => range.clone().prop_map(|(offset, length)| Change::Zero { offset, length }),
        1 => range.prop_map(|(offset, length)| Change::Discard { offset, length }),
        2 => Just(Change::Seal),
    ]
}

fn config(base: &Path, layers: Vec<PathBuf>, writable: Option<PathBuf>) -> DeviceConfig {
    DeviceConfig {
        base: Some(base.to_owned()),
        layers,
        writable: writable.map(|directory| WritableConfig {
            directory,
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes: SIZE,
    }
}

fn whole(device: &Device) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    device.read(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_changes_nothing(
        base_blocks in 0..BLOCKS,
        changes in prop::collection::vec(change(), 1..24),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        let content: Vec<u8> = (0..base_blocks * BLOCK_SIZE).map(|at| (at / 7) as u8 | 1).collect();
        std::fs::write(&base, content).unwrap();
        let layer = |number: usize| directory.path().join(format!("layer-{number}"));
        let mut layers = vec![layer(0)];
        let device = Device::create(&config(&base, Vec::new(), Some(layer(0)))).unwrap();
        let device = Arc::new(device);
        for change in changes {
            match change {
                Change::Write { offset, length, byte } => {
                    device.write(offset, &vec![byte; length as usize]).unwrap();
                }
                Change::Zero { offset, length } => device.write_zeroes(offset, length).unwrap(),
                Change::Discard { offset, length } => device.discard(offset, length).unwrap(),
                Change::Seal => {
                    layers.push(layer(layers.len()));
                    device.seal(layers.last().unwrap()).unwrap().finish().unwrap();
                }
            }
        }
        layers.push(layer(layers.len()));
        device.seal(layers.last().unwrap()).unwrap().finish().unwrap();
        let expected = whole(&device);
        let sealed = layers[..layers.len() - 1].to_vec();

        // While the device is open, as when a snapshot of a running sandbox is made.
        let merged = directory.path().join("merged");
        merge(&base, &sealed, SIZE, &merged).unwrap();
        let reader = Device::open(&config(&base, vec![merged.clone()], None)).unwrap();
        prop_assert!(whole(&reader) == expected);
        prop_assert!(merge(&base, &sealed, SIZE, &merged).is_err(), "it is there already");
        drop(device);
        let reader = Device::open(&config(&base, vec![merged], None)).unwrap();
        prop_assert!(whole(&reader) == expected);
    }
}
