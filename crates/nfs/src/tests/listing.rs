//! Directories in pieces.

use super::client::*;
use crate::handle::HandleKey;
use nfs3_types::nfs3::*;
use std::collections::BTreeSet;

const MANY: usize = 2000;

fn names_of(client: &Client<'_>, dir: &nfs_fh3, count: u32) -> Vec<String> {
    let (mut names, mut cookie, mut cookieverf) = (Vec::new(), 0, cookieverf3::default());
    loop {
        let arguments = READDIR3args {
            dir: dir.clone(),
            cookie,
            cookieverf,
            count,
        };
        let message = client.message(
            crate::procedures::PROGRAM,
            NFS_PROGRAM::NFSPROC3_READDIR as u32,
            &arguments,
        );
        let listed: READDIR3res<'_> = client.send(&message);
        let listed = checked(listed).unwrap();
        cookieverf = listed.cookieverf;
        let eof = listed.reply.eof;
        for entry in listed.reply.entries.into_inner() {
            cookie = entry.cookie;
            names.push(String::from_utf8(entry.name.as_ref().to_vec()).unwrap());
        }
        if eof {
            return names;
        }
    }
}

fn piece_with(
    client: &Client<'_>,
    dir: &nfs_fh3,
    (cookie, cookieverf): (u64, cookieverf3),
    maxcount: u32,
) -> Result<READDIRPLUS3resok<'static>, nfsstat3> {
    let arguments = READDIRPLUS3args {
        dir: dir.clone(),
        cookie,
        cookieverf,
        dircount: 512,
        maxcount,
    };
    let listed: READDIRPLUS3res<'_> = client.nfs(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &arguments);
    checked(listed)
}

#[test]
fn every_name_comes_once_however_small_the_pieces() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let wanted: BTreeSet<String> = (0..MANY).map(|number| format!("file-{number}")).collect();
    for name in &wanted {
        std::fs::write(volume.path().join(name), name).unwrap();
    }
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    for count in [512, 4096, u32::MAX] {
        let names = names_of(&client, &root, count);
        assert_eq!(names.len(), MANY + 2, "in pieces of {count} bytes");
        let names: BTreeSet<String> = names.into_iter().collect();
        assert!(names.is_superset(&wanted));
        assert!(names.contains(".") && names.contains(".."));
    }
}

#[test]
fn entries_come_with_what_they_stand_for_within_the_size_asked() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    for number in 0..300 {
        client
            .create(&root, &format!("file-{number}"), 0o644)
            .unwrap();
    }
    let (mut at, mut seen) = ((0, cookieverf3::default()), 0);
    loop {
        let piece = piece_with(&client, &root, at, 4096).unwrap();
        use nfs3_types::xdr_codec::Pack as _;
        assert!(piece.packed_size() <= 4096);
        at.1 = piece.cookieverf;
        let eof = piece.reply.eof;
        for entry in piece.reply.entries.into_inner() {
            at.0 = entry.cookie;
            let name = String::from_utf8(entry.name.as_ref().to_vec()).unwrap();
            if name.starts_with('.') {
                assert!(entry.name_handle.is_none());
                continue;
            }
            seen += 1;
            let attributes = entry.name_attributes.unwrap();
            assert_eq!(attributes.fileid, entry.fileid);
            assert_eq!(
                client.lookup(&root, &name).unwrap(),
                entry.name_handle.unwrap()
            );
        }
        if eof {
            break;
        }
    }
    assert_eq!(seen, 300);
}

#[test]
fn a_cookie_belongs_to_its_directory() {
    let (volume, key) = (Volume::new(), HandleKey::random().unwrap());
    let exports = exports(vec![("data", volume.tree(&key, ROOM))]);
    let client = Client::root(&exports);
    let root = client.mount("/data").unwrap();
    let below = client.mkdir(&root, "below", 0o755).unwrap();
    let piece = piece_with(&client, &root, (0, cookieverf3::default()), 4096).unwrap();
    let verifier = piece.cookieverf;
    let entries = piece.reply.entries.into_inner();
    let cookie = entries.first().unwrap().cookie;
    assert!(piece_with(&client, &root, (cookie, verifier), 4096).is_ok());
    let bad = nfsstat3::NFS3ERR_BAD_COOKIE;
    let elsewhere = piece_with(&client, &below, (cookie, verifier), 4096);
    assert_eq!(elsewhere.unwrap_err(), bad);
    let made_up = piece_with(&client, &root, (cookie, cookieverf3([1; 8])), 4096);
    assert_eq!(made_up.unwrap_err(), bad);
    let huge = piece_with(&client, &root, (u64::MAX, verifier), 4096);
    assert_eq!(huge.unwrap_err(), bad);
    let small = piece_with(&client, &root, (0, verifier), 100);
    assert_eq!(small.unwrap_err(), nfsstat3::NFS3ERR_TOOSMALL);
}
