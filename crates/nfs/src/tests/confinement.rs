//! What a guest must not reach, whatever it sends.

use super::client::*;
use crate::handle::HandleKey;
use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::{Opaque, Pack};
use std::os::unix::fs::FileTypeExt as _;

#[test]
fn a_handle_of_another_volume_or_made_up_is_refused() {
    let key = HandleKey::random().unwrap();
    let (own, foreign) = (Volume::new(), Volume::new());
    let own = exports(vec![("data", own.tree(&key, ROOM))]);
    let foreign = exports(vec![("data", foreign.tree(&key, ROOM))]);
    let (client, other) = (Client::root(&own), Client::root(&foreign));
    let root = client.mount("/data").unwrap();
    let secret = other.create(&other.mount("/data").unwrap(), "secret", 0o644);
    let secret = secret.unwrap();
    assert!(other.attributes(&secret).is_ok());
    assert_eq!(
        client.attributes(&secret).unwrap_err(),
        nfsstat3::NFS3ERR_BADHANDLE
    );
    let moved = client.rename((&root, "a"), (&secret, "b")).unwrap_err();
    assert_eq!(moved, nfsstat3::NFS3ERR_BADHANDLE);
    for length in [0, 1, 25, 34, 64] {
        let data = Opaque::owned(vec![1; length]);
        let refused = client.attributes(&nfs_fh3 { data }).unwrap_err();
        assert_eq!(refused, nfsstat3::NFS3ERR_BADHANDLE);
    }
}

#[test]
fn two_volumes_of_a_sandbox_are_two_file_systems() {
    let key = HandleKey::random().unwrap();
    let (one, other) = (Volume::new(), Volume::new());
    let both = exports(vec![
        ("one", one.tree(&key, ROOM)),
        ("other", other.tree(&key, ROOM)),
    ]);
    let client = Client::root(&both);
    let (one, other) = (
        client.mount("/one").unwrap(),
        client.mount("/other").unwrap(),
    );
    let file = client.create(&one, "a", 0o644).unwrap();
    let renamed = client.rename((&one, "a"), (&other, "a")).unwrap_err();
    assert_eq!(renamed, nfsstat3::NFS3ERR_XDEV);
    let link = LINK3args {
        file,
        link: at(&other, "a"),
    };
    let linked: LINK3res = client.nfs(NFS_PROGRAM::NFSPROC3_LINK, &link);
    assert_eq!(checked(linked).unwrap_err(), nfsstat3::NFS3ERR_XDEV);
    let fsid = |file| client.attributes(file).unwrap().fsid;
    assert_ne!(fsid(&one), fsid(&other));
}

#[test]
fn a_link_out_of_the_volume_is_only_text() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    std::fs::write(volume.directory.path().join("outside"), b"secret").unwrap();
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let (up, file) = ("..", "../outside");
    let directory = client.symlink(&root, "up", up).unwrap();
    let link = client.symlink(&root, "out", file).unwrap();
    let arguments = READLINK3args {
        symlink: link.clone(),
    };
    let target: READLINK3res<'_> = client.nfs(NFS_PROGRAM::NFSPROC3_READLINK, &arguments);
    assert_eq!(checked(target).unwrap().data.as_ref(), file.as_bytes());
    assert_eq!(
        client.lookup(&directory, "outside"),
        Err(nfsstat3::NFS3ERR_NOTDIR)
    );
    assert_eq!(client.read(&link, 0, 10), Err(nfsstat3::NFS3ERR_INVAL));
    let written = client.write(&link, 0, b"x", stable_how::UNSTABLE);
    assert_eq!(written.unwrap_err(), nfsstat3::NFS3ERR_INVAL);
    // Neither does a change of attributes get through it.
    client.set(&link, mode_of(0o777), Nfs3Option::None).unwrap();
    let shorter = sattr3 {
        size: Nfs3Option::Some(0),
        ..sattr3::default()
    };
    assert!(
        client
            .set(&link, shorter.clone(), Nfs3Option::None)
            .is_err()
    );
    let over = client.create_as(&root, "out", createhow3::UNCHECKED(shorter));
    assert_eq!(over, Err(nfsstat3::NFS3ERR_EXIST));
    let outside = volume.directory.path().join("outside");
    assert_eq!(std::fs::read(&outside).unwrap(), b"secret");
}

#[test]
fn names_are_names_of_one_directory() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let below = client.mkdir(&root, "below", 0o755).unwrap();
    let (long, longest) = ("x".repeat(256), "x".repeat(255));
    for (name, status) in [
        ("", nfsstat3::NFS3ERR_INVAL),
        ("a/b", nfsstat3::NFS3ERR_INVAL),
        ("../tree", nfsstat3::NFS3ERR_INVAL),
        ("a\0b", nfsstat3::NFS3ERR_INVAL),
        (long.as_str(), nfsstat3::NFS3ERR_NAMETOOLONG),
    ] {
        assert_eq!(client.lookup(&root, name), Err(status), "{name:?}");
        assert_eq!(client.create(&root, name, 0o644), Err(status), "{name:?}");
        assert_eq!(client.remove(&root, name).unwrap_err(), status, "{name:?}");
        let moved = client.rename((&root, "below"), (&root, name));
        assert_eq!(moved, Err(status), "{name:?}");
    }
    for own in [".", ".."] {
        assert_eq!(
            client.mkdir(&root, own, 0o755),
            Err(nfsstat3::NFS3ERR_EXIST)
        );
        assert_eq!(
            client.remove(&root, own).unwrap_err(),
            nfsstat3::NFS3ERR_INVAL
        );
        let moved = client.rename((&below, own), (&root, "x"));
        assert_eq!(moved, Err(nfsstat3::NFS3ERR_INVAL));
    }
    client.create(&root, &longest, 0o644).unwrap();
    assert_eq!(client.lookup(&root, ".").unwrap(), root);
    assert_eq!(client.lookup(&below, "..").unwrap(), root);
    assert_eq!(
        client.lookup(&root, "..").unwrap(),
        root,
        "nothing is above it"
    );
}

#[test]
fn a_directory_that_was_moved_out_of_the_volume_leads_nowhere() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let below = client.mkdir(&root, "below", 0o755).unwrap();
    let outside = volume.directory.path().join("moved");
    std::fs::rename(volume.path().join("below"), outside).unwrap();
    assert_eq!(client.lookup(&below, ".."), Err(nfsstat3::NFS3ERR_STALE));
}

#[test]
fn there_are_pipes_and_sockets_and_no_devices() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let make = |name, what| -> Result<nfs_fh3, nfsstat3> {
        let where_ = at(&root, name);
        let made: MKNOD3res = client.nfs(NFS_PROGRAM::NFSPROC3_MKNOD, &MKNOD3args { where_, what });
        checked(made).map(|made| made.obj.unwrap())
    };
    let device = || devicedata3 {
        dev_attributes: mode_of(0o666),
        spec: specdata3 {
            specdata1: 1,
            specdata2: 3,
        },
    };
    for what in [mknoddata3::NF3CHR(device()), mknoddata3::NF3BLK(device())] {
        assert_eq!(make("device", what), Err(nfsstat3::NFS3ERR_PERM));
    }
    make("socket", mknoddata3::NF3SOCK(mode_of(0o600))).unwrap();
    let pipe = make("pipe", mknoddata3::NF3FIFO(mode_of(0o600))).unwrap();
    assert_eq!(names(&volume.path()), ["pipe", "socket"]);
    let kind = std::fs::metadata(volume.path().join("pipe"))
        .unwrap()
        .file_type();
    assert!(kind.is_fifo());
    // Nobody waits for the other end.
    assert_eq!(client.read(&pipe, 0, 1), Err(nfsstat3::NFS3ERR_INVAL));
}

#[test]
fn a_device_that_is_there_already_is_not_opened() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let zero = rustix::fs::makedev(1, 5);
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        volume.path().join("zero"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        zero,
    );
    // Not everybody may make one; then there is none to be opened.
    if made.is_err() {
        return;
    }
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let device = client.lookup(&root, "zero").unwrap();
    assert_eq!(client.read(&device, 0, 1), Err(nfsstat3::NFS3ERR_INVAL));
    let rdev = client.attributes(&device).unwrap().rdev;
    assert_eq!((rdev.specdata1, rdev.specdata2), (0, 0));
}

#[test]
fn handles_have_the_length_that_clients_keep() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let root = Client::root(&exports).mount("/data").unwrap();
    assert!(root.packed_size() <= 4 + NFS3_FHSIZE);
}
