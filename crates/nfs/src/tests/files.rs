//! What programs do with files.

use super::client::*;
use crate::handle::HandleKey;
use nfs3_types::nfs3::*;
use std::os::unix::fs::MetadataExt as _;

#[test]
fn what_one_sandbox_writes_another_reads() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let tree = volume.tree(&key, ROOM);
    let (one, other) = (
        exports(vec![("data", tree.clone())]),
        exports(vec![("shared", tree)]),
    );
    let (one, other) = (Client::root(&one), Client::root(&other));
    assert!(one.mount("/shared").is_none(), "another's name");
    let root = one.mount("/data").unwrap();
    let file = one.create(&root, "note", 0o640).unwrap();
    let written = one
        .write(&file, 0, b"hello", stable_how::FILE_SYNC)
        .unwrap();
    assert_eq!(
        (written.count, written.committed),
        (5, stable_how::FILE_SYNC)
    );
    let root = other.mount("/shared").unwrap();
    let file = other.lookup(&root, "note").unwrap();
    assert_eq!(
        other.read(&file, 0, 100).unwrap(),
        (b"hello".to_vec(), true)
    );
    assert_eq!(other.read(&file, 1, 3).unwrap(), (b"ell".to_vec(), false));
    assert_eq!(other.read(&file, 99, 3).unwrap(), (Vec::new(), true));
    let attributes = other.attributes(&file).unwrap();
    assert_eq!((attributes.size, attributes.mode), (5, 0o640));
    assert_eq!(std::fs::read(volume.path().join("note")).unwrap(), b"hello");
}

#[test]
fn a_change_tells_what_was_before_and_what_is_after() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    client
        .write(&file, 0, b"12345", stable_how::UNSTABLE)
        .unwrap();
    let written = client
        .write(&file, 5, b"678", stable_how::UNSTABLE)
        .unwrap();
    assert_eq!(written.file_wcc.before.unwrap().size, 5);
    assert_eq!(written.file_wcc.after.unwrap().size, 8);
    let before = client.attributes(&root).unwrap();
    let wcc = client.remove(&root, "a").unwrap();
    assert_eq!(wcc.before.unwrap().ctime, before.ctime);
    let after = client.attributes(&root).unwrap();
    assert_eq!(wcc.after.unwrap().mtime, after.mtime);
}

#[test]
fn written_data_is_there_until_the_verifier_changes() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    let written = client
        .write(&file, 0, b"12345", stable_how::UNSTABLE)
        .unwrap();
    assert_eq!(written.committed, stable_how::UNSTABLE);
    let commit = COMMIT3args {
        file,
        offset: 0,
        count: 0,
    };
    let committed: COMMIT3res = client.nfs(NFS_PROGRAM::NFSPROC3_COMMIT, &commit);
    assert_eq!(checked(committed).unwrap().verf, written.verf);
    exports.data_lost();
    let committed: COMMIT3res = client.nfs(NFS_PROGRAM::NFSPROC3_COMMIT, &commit);
    assert_ne!(checked(committed).unwrap().verf, written.verf);
}

#[test]
fn a_handle_follows_its_file_and_ends_with_it() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let below = client.mkdir(&root, "below", 0o755).unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    client.rename((&root, "a"), (&below, "b")).unwrap();
    client
        .write(&file, 0, b"moved", stable_how::UNSTABLE)
        .unwrap();
    assert_eq!(client.lookup(&root, "a"), Err(nfsstat3::NFS3ERR_NOENT));
    assert_eq!(client.lookup(&below, "b").unwrap(), file);
    // Put in the place of another, whose handle ends.
    let other = client.create(&root, "c", 0o644).unwrap();
    client.rename((&below, "b"), (&root, "c")).unwrap();
    assert_eq!(
        client.attributes(&other).unwrap_err(),
        nfsstat3::NFS3ERR_STALE
    );
    client.remove(&root, "c").unwrap();
    let late = client.write(&file, 0, b"late", stable_how::UNSTABLE);
    assert_eq!(late.unwrap_err(), nfsstat3::NFS3ERR_STALE);
}

#[test]
fn handles_outlive_the_server_and_not_its_key() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let (root, file) = {
        let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
        let client = Client::root(&exports);
        let root = client.mount("/data").unwrap();
        let file = client.create(&root, "a", 0o644).unwrap();
        (root, file)
    };
    let next = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&next);
    client.write(&file, 0, b"on", stable_how::UNSTABLE).unwrap();
    assert_eq!(client.lookup(&root, "a").unwrap(), file);
    let other_key = HandleKey::random().unwrap();
    let foreign = exports(vec![("data", volume.tree(&other_key, ROOM))]);
    let refused = Client::root(&foreign).attributes(&file).unwrap_err();
    assert_eq!(refused, nfsstat3::NFS3ERR_BADHANDLE);
}

#[test]
fn an_exclusive_creation_can_be_repeated_by_its_author_alone() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let exclusive = |mark| createhow3::EXCLUSIVE(createverf3([mark; 8]));
    let made = client.create_as(&root, "lock", exclusive(0xfe)).unwrap();
    let again = client.create_as(&root, "lock", exclusive(0xfe)).unwrap();
    assert_eq!(made, again);
    let other = client.create_as(&root, "lock", exclusive(1));
    assert_eq!(other, Err(nfsstat3::NFS3ERR_EXIST));
    let guarded = client.create(&root, "lock", 0o600);
    assert_eq!(guarded, Err(nfsstat3::NFS3ERR_EXIST));
}

#[test]
fn an_unchecked_creation_truncates_what_is_there_and_changes_nothing_else() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o640).unwrap();
    client
        .write(&file, 0, b"12345", stable_how::UNSTABLE)
        .unwrap();
    let how = |size| {
        createhow3::UNCHECKED(sattr3 {
            size,
            ..mode_of(0o777)
        })
    };
    client.create_as(&root, "a", how(Nfs3Option::None)).unwrap();
    assert_eq!(client.attributes(&file).unwrap().size, 5);
    client
        .create_as(&root, "a", how(Nfs3Option::Some(0)))
        .unwrap();
    let attributes = client.attributes(&file).unwrap();
    assert_eq!((attributes.size, attributes.mode), (0, 0o640));
}

#[test]
fn a_guarded_change_is_of_the_file_that_was_seen() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o640).unwrap();
    let seen = client.attributes(&file).unwrap().ctime;
    let older = nfstime3 {
        seconds: seen.seconds - 1,
        ..seen
    };
    let refused = client.set(&file, mode_of(0o600), Nfs3Option::Some(older));
    assert_eq!(refused.unwrap_err(), nfsstat3::NFS3ERR_NOT_SYNC);
    let wcc = client
        .set(&file, mode_of(0o600), Nfs3Option::Some(seen))
        .unwrap();
    assert_eq!(wcc.after.unwrap().mode, 0o600);
}

#[test]
fn times_lengths_and_owners_are_set() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    let time = nfstime3 {
        seconds: 1_000_000_000,
        nseconds: 123_456_789,
    };
    let changes = sattr3 {
        mode: Nfs3Option::Some(0o4755),
        uid: Nfs3Option::Some(1234),
        gid: Nfs3Option::Some(4321),
        size: Nfs3Option::Some(10_000),
        atime: set_atime::SET_TO_SERVER_TIME,
        mtime: set_mtime::SET_TO_CLIENT_TIME(time),
    };
    client.set(&file, changes, Nfs3Option::None).unwrap();
    let got = client.attributes(&file).unwrap();
    assert_eq!((got.mode, got.uid, got.gid), (0o4755, 1234, 4321));
    assert_eq!((got.size, got.mtime), (10_000, time));
    assert!(got.atime.seconds > 1_700_000_000);
    let nobody = sattr3 {
        uid: Nfs3Option::Some(u32::MAX),
        ..sattr3::default()
    };
    let refused = client.set(&file, nobody, Nfs3Option::None).unwrap_err();
    assert_eq!(refused, nfsstat3::NFS3ERR_INVAL);
}

#[test]
fn a_file_has_more_names_than_one() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    let arguments = LINK3args {
        file: file.clone(),
        link: at(&root, "b"),
    };
    let linked: LINK3res = client.nfs(NFS_PROGRAM::NFSPROC3_LINK, &arguments);
    assert_eq!(checked(linked).unwrap().file_attributes.unwrap().nlink, 2);
    client.remove(&root, "a").unwrap();
    assert_eq!(client.lookup(&root, "b").unwrap(), file);
    assert_eq!(client.attributes(&file).unwrap().nlink, 1);
}

#[test]
fn a_repeated_request_is_answered_and_not_done_again() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    client.create(&root, "a", 0o644).unwrap();
    let arguments = REMOVE3args {
        object: at(&root, "a"),
    };
    let number = NFS_PROGRAM::NFSPROC3_REMOVE as u32;
    let message = client.message(crate::procedures::PROGRAM, number, &arguments);
    for _ in 0..2 {
        let removed: REMOVE3res = client.send(&message);
        checked(removed).unwrap();
    }
    // Another request for the same is another matter.
    let gone = client.remove(&root, "a").unwrap_err();
    assert_eq!(gone, nfsstat3::NFS3ERR_NOENT);
}

#[test]
fn a_full_disk_takes_no_new_data_and_gives_everything_back() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let roomy = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&roomy);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    client
        .write(&file, 0, &[1; 5000], stable_how::FILE_SYNC)
        .unwrap();
    let full = exports(vec![("data", volume.tree(&key, 0))]);
    let client = Client::root(&full);
    let more = client.write(&file, 5000, &[2; 100], stable_how::UNSTABLE);
    assert_eq!(more.unwrap_err(), nfsstat3::NFS3ERR_NOSPC);
    let new = client.create(&root, "b", 0o644).unwrap_err();
    assert_eq!(new, nfsstat3::NFS3ERR_NOSPC);
    assert_eq!(names(&volume.path()), ["a"]);
    client
        .write(&file, 0, &[3; 100], stable_how::UNSTABLE)
        .unwrap();
    assert_eq!(client.read(&file, 99, 2).unwrap().0, [3, 1]);
    let space = FSSTAT3args::from(root.clone());
    let space: FSSTAT3res = client.nfs(NFS_PROGRAM::NFSPROC3_FSSTAT, &space);
    assert_eq!(checked(space).unwrap().abytes, 0);
    client.remove(&root, "a").unwrap();
    assert_eq!(std::fs::metadata(volume.path()).unwrap().nlink(), 2);
}

#[test]
fn a_volume_takes_what_it_may_hold() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, 100_000))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    let piece = [1; 30_000];
    let written = (0..10)
        .map(|number| client.write(&file, number * 30_000, &piece, stable_how::UNSTABLE))
        .take_while(Result::is_ok)
        .count();
    assert_eq!(written, 3);
    let more = client.write(&file, 90_000, &piece, stable_how::UNSTABLE);
    assert_eq!(more.unwrap_err(), nfsstat3::NFS3ERR_NOSPC);
    assert_eq!(client.attributes(&file).unwrap().size, 90_000);
}

#[test]
fn a_volume_takes_as_many_entries_as_it_may_hold() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree_of(&key, Room::of(ROOM, 3)))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let file = client.create(&root, "a", 0o644).unwrap();
    client.mkdir(&root, "b", 0o755).unwrap();
    client.symlink(&root, "c", "a").unwrap();
    let full = nfsstat3::NFS3ERR_NOSPC;
    assert_eq!(client.create(&root, "d", 0o644).unwrap_err(), full);
    assert_eq!(client.mkdir(&root, "d", 0o755).unwrap_err(), full);
    assert_eq!(client.symlink(&root, "d", "a").unwrap_err(), full);
    // What is there can be written to and renamed.
    client
        .write(&file, 0, &[1; 100], stable_how::FILE_SYNC)
        .unwrap();
    client.rename((&root, "a"), (&root, "e")).unwrap();
    // What is replaced or removed makes room.
    client.rename((&root, "e"), (&root, "c")).unwrap();
    client.create(&root, "d", 0o644).unwrap();
    assert_eq!(client.create(&root, "f", 0o644).unwrap_err(), full);
    client.remove(&root, "d").unwrap();
    client.create(&root, "f", 0o644).unwrap();
}
