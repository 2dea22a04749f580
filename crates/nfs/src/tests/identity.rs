//! Users of a guest, among themselves.

use super::client::*;
use crate::handle::HandleKey;
use nfs3_types::nfs3::*;

const ALICE: u32 = 1001;
const BOB: u32 = 1002;
const TEAM: u32 = 50;

#[test]
fn what_is_made_belongs_to_whoever_asked() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let (alice, root) = (
        Client::user(&exports, ALICE, TEAM, &[]),
        Client::root(&exports),
    );
    let top = alice.mount("/data").unwrap();
    let file = alice.create(&top, "a", 0o600).unwrap();
    let link = alice.symlink(&top, "l", "a").unwrap();
    for handle in [&file, &link] {
        let got = root.attributes(handle).unwrap();
        assert_eq!((got.uid, got.gid), (ALICE, TEAM));
    }
    let shared = root.mkdir(&top, "shared", 0o2777).unwrap();
    let below = alice.mkdir(&shared, "below", 0o755).unwrap();
    let got = root.attributes(&below).unwrap();
    assert_eq!(
        (got.uid, got.gid, got.mode),
        (ALICE, 0, 0o2755),
        "the directory's group"
    );
}

#[test]
fn others_have_what_the_mode_says() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let alice = Client::user(&exports, ALICE, ALICE, &[TEAM]);
    let bob = Client::user(&exports, BOB, BOB, &[TEAM]);
    let top = alice.mount("/data").unwrap();
    let file = alice.create(&top, "a", 0o600).unwrap();
    alice
        .write(&file, 0, b"mine", stable_how::UNSTABLE)
        .unwrap();
    assert_eq!(bob.read(&file, 0, 4), Err(nfsstat3::NFS3ERR_ACCES));
    let written = bob.write(&file, 0, b"x", stable_how::UNSTABLE);
    assert_eq!(written.unwrap_err(), nfsstat3::NFS3ERR_ACCES);
    let chmod = bob.set(&file, mode_of(0o666), Nfs3Option::None);
    assert_eq!(chmod.unwrap_err(), nfsstat3::NFS3ERR_PERM);
    let give = |uid| sattr3 {
        uid: Nfs3Option::Some(uid),
        ..sattr3::default()
    };
    let given = alice.set(&file, give(BOB), Nfs3Option::None);
    assert_eq!(given.unwrap_err(), nfsstat3::NFS3ERR_PERM);
    let group = sattr3 {
        gid: Nfs3Option::Some(TEAM),
        ..mode_of(0o640)
    };
    alice.set(&file, group, Nfs3Option::None).unwrap();
    assert_eq!(bob.read(&file, 0, 4).unwrap().0, b"mine");
    let access = ACCESS3args {
        object: file.clone(),
        access: 0x3f,
    };
    let access: ACCESS3res = bob.nfs(NFS_PROGRAM::NFSPROC3_ACCESS, &access);
    assert_eq!(checked(access).unwrap().access, ACCESS3_READ);
    // Whoever has a file open goes on, whatever its mode becomes.
    alice.set(&file, mode_of(0), Nfs3Option::None).unwrap();
    assert_eq!(alice.read(&file, 0, 4).unwrap().0, b"mine");
    assert!(bob.read(&file, 0, 4).is_err());
}

#[test]
fn directories_keep_their_names_from_others() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let alice = Client::user(&exports, ALICE, ALICE, &[]);
    let bob = Client::user(&exports, BOB, BOB, &[]);
    let root = Client::root(&exports);
    let top = root.mount("/data").unwrap();
    let own = alice.mkdir(&top, "own", 0o755).unwrap();
    alice.create(&own, "a", 0o666).unwrap();
    let denied = nfsstat3::NFS3ERR_ACCES;
    assert_eq!(bob.create(&own, "b", 0o644), Err(denied));
    assert_eq!(bob.remove(&own, "a").unwrap_err(), denied);
    assert_eq!(bob.rename((&own, "a"), (&top, "a")), Err(denied));
    let sticky = root.mkdir(&top, "sticky", 0o1777).unwrap();
    alice.create(&sticky, "a", 0o666).unwrap();
    assert_eq!(bob.remove(&sticky, "a").unwrap_err(), denied);
    assert_eq!(bob.rename((&sticky, "a"), (&sticky, "b")), Err(denied));
    bob.create(&sticky, "b", 0o644).unwrap();
    assert_eq!(
        bob.rename((&sticky, "b"), (&sticky, "a")),
        Err(denied),
        "over hers"
    );
    alice.remove(&sticky, "a").unwrap();
    let closed = alice.mkdir(&top, "closed", 0o700).unwrap();
    assert_eq!(bob.lookup(&closed, "x"), Err(denied));
}

#[test]
fn what_others_write_to_is_not_run_as_its_owner_any_more() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let (root, bob) = (
        Client::root(&exports),
        Client::user(&exports, BOB, BOB, &[]),
    );
    let top = root.mount("/data").unwrap();
    let file = root.create(&top, "tool", 0o6777).unwrap();
    assert_eq!(root.attributes(&file).unwrap().mode, 0o6777);
    bob.write(&file, 0, b"evil", stable_how::UNSTABLE).unwrap();
    assert_eq!(root.attributes(&file).unwrap().mode, 0o777);
}
