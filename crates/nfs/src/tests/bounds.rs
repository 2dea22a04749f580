//! Messages that no client sends.

use super::client::*;
use crate::handle::HandleKey;
use crate::{mountd, procedures};
use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::{Opaque, Pack};
use proptest::prelude::*;

/// One whole message of every procedure.
fn messages(client: &Client<'_>, root: &nfs_fh3, file: &nfs_fh3) -> Vec<Vec<u8>> {
    let nfs = |procedure: NFS_PROGRAM, arguments: &dyn Fn(&mut Vec<u8>)| {
        let mut message = client.message(procedures::PROGRAM, procedure as u32, &Nothing);
        arguments(&mut message);
        message
    };
    let handle = |message: &mut Vec<u8>| {
        file.pack(message).unwrap();
    };
    let with = |procedure, more: &'static [u32]| {
        nfs(procedure, &move |message| {
            handle(message);
            for word in more {
                word.pack(message).unwrap();
            }
        })
    };
    let entry = |procedure, more: &'static [u32]| {
        nfs(procedure, &move |message| {
            at(root, "name").pack(message).unwrap();
            for word in more {
                word.pack(message).unwrap();
            }
        })
    };
    use NFS_PROGRAM::*;
    let mut all = vec![
        with(NFSPROC3_GETATTR, &[]),
        with(NFSPROC3_SETATTR, &[1, 0o644, 0, 0, 1, 0, 5, 1, 2, 7, 7, 0]),
        entry(NFSPROC3_LOOKUP, &[]),
        with(NFSPROC3_ACCESS, &[0x3f]),
        with(NFSPROC3_READLINK, &[]),
        with(NFSPROC3_READ, &[0, 0, 4096]),
        with(NFSPROC3_WRITE, &[0, 0, 4, 2, 4, 0x6162_6364]),
        entry(NFSPROC3_CREATE, &[0, 1, 0o644, 0, 0, 0, 0, 0]),
        entry(NFSPROC3_CREATE, &[2, 9, 9]),
        entry(NFSPROC3_MKDIR, &[1, 0o755, 0, 0, 0, 0, 0]),
        entry(NFSPROC3_SYMLINK, &[0, 0, 0, 0, 0, 0, 4, 0x6162_6364]),
        entry(NFSPROC3_MKNOD, &[7, 0, 0, 0, 0, 0, 0]),
        entry(NFSPROC3_REMOVE, &[]),
        entry(NFSPROC3_RMDIR, &[]),
        nfs(NFSPROC3_RENAME, &|message| {
            at(root, "name").pack(message).unwrap();
            at(root, "other").pack(message).unwrap();
        }),
        nfs(NFSPROC3_LINK, &|message| {
            handle(message);
            at(root, "linked").pack(message).unwrap();
        }),
        with(NFSPROC3_FSSTAT, &[]),
        with(NFSPROC3_FSINFO, &[]),
        with(NFSPROC3_PATHCONF, &[]),
        with(NFSPROC3_COMMIT, &[0, 0, 0]),
        nfs(NFSPROC3_READDIRPLUS, &|message| {
            root.pack(message).unwrap();
            for word in [0, 0, 0, 0, 512, 4096_u32] {
                word.pack(message).unwrap();
            }
        }),
    ];
    let path = Opaque::borrowed(b"/data");
    all.extend((1..=5).map(|number| client.message(mountd::PROGRAM, number, &path)));
    all
}

/// No arguments.
struct Nothing;

impl Pack for Nothing {
    fn packed_size(&self) -> usize {
        0
    }

    fn pack(&self, _: &mut impl std::io::Write) -> nfs3_types::xdr_codec::Result<usize> {
        Ok(0)
    }
}

struct Served {
    volume: Volume,
    exports: crate::exports::Exports,
}

fn served() -> Served {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    Served { volume, exports }
}

#[test]
fn messages_that_end_early_are_answered_and_do_nothing() {
    let Served { volume, exports } = served();
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "file", 0o644).unwrap();
    let before = std::fs::metadata(volume.path().join("file")).unwrap();
    for message in messages(&client, &root, &file) {
        for length in 0..message.len() {
            let _answered_or_not = exports.answer(&message[..length]);
        }
    }
    assert_eq!(names(&volume.path()), ["file"]);
    let after = std::fs::metadata(volume.path().join("file")).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}

#[test]
fn no_word_of_a_message_is_trusted() {
    let Served { volume, exports } = served();
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "file", 0o644).unwrap();
    for message in messages(&client, &root, &file) {
        for at in (0..message.len()).step_by(4) {
            for word in [u32::MAX, 0x7fff_ffff, 0x8000_0000, 0x0010_0001, 0] {
                let mut changed = message.clone();
                changed[at..at + 4].copy_from_slice(&word.to_be_bytes());
                if let Some(answer) = exports.answer(&changed) {
                    assert!(answer.len() <= crate::record::LONGEST);
                }
            }
        }
    }
    assert_eq!(names(volume.directory.path()), ["tree"]);
}

#[test]
fn other_programs_versions_and_procedures_are_refused_as_such() {
    let Served { exports, .. } = served();
    let user = nfs3_types::rpc::auth_unix::default();
    let status = |target| {
        let answer = exports.answer(&call(7, target, &user, &Nothing)).unwrap();
        let words: Vec<u32> = answer
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words[..5], [7, 1, 0, 0, 0]);
        words[5..].to_vec()
    };
    assert_eq!(status((procedures::PROGRAM, 3, NULL)), [0]);
    assert_eq!(status((mountd::PROGRAM, 3, NULL)), [0]);
    assert_eq!(status((100_000, 2, 3)), [1], "no port mapper");
    assert_eq!(status((procedures::PROGRAM, 4, 1)), [2, 3, 3]);
    assert_eq!(status((procedures::PROGRAM, 3, 22)), [3]);
    assert_eq!(status((mountd::PROGRAM, 3, 6)), [3]);
    assert_eq!(status((procedures::PROGRAM, 3, 1)), [4], "no arguments");
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let Served { exports, .. } = served();
        let _answered_or_not = exports.answer(&bytes);
    }

    #[test]
    fn arguments_of_any_kind_are_survived(
        procedure in 0_u32..24,
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let Served { volume, exports } = served();
        let client = Client::root(&exports);
        let root = client.mount("/data").unwrap();
        let mut message = client.message(procedures::PROGRAM, procedure, &root);
        message.extend_from_slice(&bytes);
        let _answered_or_not = exports.answer(&message);
        prop_assert_eq!(names(volume.directory.path()), vec!["tree".to_owned()]);
    }
}
