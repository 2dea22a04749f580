//! A client for one sandbox's exports, without a socket.

use crate::exports::Exports;
use crate::handle::HandleKey;
use crate::tree::Tree;
use crate::{Losses, mountd, procedures};
use hearth_ids::VolumeId;
use nfs3_types::mount::{dirpath, mountres3};
use nfs3_types::nfs3::*;
use nfs3_types::rpc::{
    accept_stat_data, auth_unix, call_body, msg_body, opaque_auth, reply_body, rpc_msg,
};
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tempfile::TempDir;

pub(super) const NULL: u32 = 0;
/// As much as a test needs.
pub(super) const ROOM: u64 = 1 << 40;

/// A volume on this host's disk.
pub(super) struct Volume {
    pub(super) id: VolumeId,
    pub(super) directory: TempDir,
}

impl Volume {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("tree")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(directory.path().join("tree"), mode).unwrap();
        Self {
            id: VolumeId::random(),
            directory,
        }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("tree")
    }

    pub(super) fn tree(&self, key: &HandleKey, room: u64) -> Arc<Tree> {
        self.tree_of(key, Room::of(room, u64::MAX))
    }

    pub(super) fn tree_of(&self, key: &HandleKey, space: Room) -> Arc<Tree> {
        let space = Arc::new(space);
        Arc::new(Tree::open(self.id, &self.path(), key, space).unwrap())
    }
}

/// What a volume may still take.
#[derive(Debug)]
pub(super) struct Room {
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Room {
    pub(super) fn of(bytes: u64, entries: u64) -> Self {
        Self {
            bytes: bytes.into(),
            entries: entries.into(),
        }
    }
}

impl crate::Space for Room {
    fn room(&self, _: VolumeId) -> std::io::Result<u64> {
        Ok(self.bytes.load(Ordering::Relaxed))
    }

    fn entries(&self, _: VolumeId) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    fn made(&self, _: VolumeId) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
    }

    fn removed(&self, _: VolumeId) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    fn written(&self, _: VolumeId, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

pub(super) fn exports(volumes: Vec<(&str, Arc<Tree>)>) -> Exports {
    let volumes = volumes.into_iter();
    let volumes = volumes
        .map(|(name, tree)| (name.to_owned(), tree))
        .collect();
    Exports::new(volumes, Arc::new(Losses::new()))
}

/// One user of one sandbox.
pub(super) struct Client<'a> {
    exports: &'a Exports,
    user: auth_unix,
    xid: AtomicU32,
}

impl<'a> Client<'a> {
    pub(super) fn root(exports: &'a Exports) -> Self {
        Self::user(exports, 0, 0, &[])
    }

    pub(super) fn user(exports: &'a Exports, uid: u32, gid: u32, gids: &[u32]) -> Self {
        Self {
            exports,
            user: auth_unix {
                uid,
                gid,
                gids: gids.to_vec(),
                ..auth_unix::default()
            },
            xid: AtomicU32::new(1),
        }
    }

    /// A call's bytes.
    pub(super) fn message(&self, program: u32, procedure: u32, arguments: &impl Pack) -> Vec<u8> {
        let xid = self.xid.fetch_add(1, Ordering::Relaxed);
        call(xid, (program, 3, procedure), &self.user, arguments)
    }

    pub(super) fn send<R: Unpack>(&self, message: &[u8]) -> R {
        results(&self.exports.answer(message).expect("an answer"))
    }

    pub(super) fn nfs<R: Unpack>(&self, procedure: NFS_PROGRAM, arguments: &impl Pack) -> R {
        self.send(&self.message(procedures::PROGRAM, procedure as u32, arguments))
    }

    pub(super) fn mount(&self, path: &str) -> Option<nfs_fh3> {
        let path = dirpath(Opaque::borrowed(path.as_bytes()));
        match self.send(&self.message(mountd::PROGRAM, 1, &path)) {
            mountres3::Ok(mounted) => Some(nfs_fh3 {
                data: Opaque::owned(mounted.fhandle.0.to_vec()),
            }),
            mountres3::Err(_) => None,
        }
    }

    pub(super) fn lookup(&self, dir: &nfs_fh3, name: &str) -> Result<nfs_fh3, nfsstat3> {
        let what = at(dir, name);
        let found: LOOKUP3res = self.nfs(NFS_PROGRAM::NFSPROC3_LOOKUP, &LOOKUP3args { what });
        checked(found).map(|found| found.object)
    }

    pub(super) fn attributes(&self, file: &nfs_fh3) -> Result<fattr3, nfsstat3> {
        let object = file.clone();
        let got: GETATTR3res = self.nfs(NFS_PROGRAM::NFSPROC3_GETATTR, &GETATTR3args { object });
        checked(got).map(|got| got.obj_attributes)
    }

    pub(super) fn create(&self, dir: &nfs_fh3, name: &str, mode: u32) -> Result<nfs_fh3, nfsstat3> {
        self.create_as(dir, name, createhow3::GUARDED(mode_of(mode)))
    }

    pub(super) fn create_as(
        &self,
        dir: &nfs_fh3,
        name: &str,
        how: createhow3,
    ) -> Result<nfs_fh3, nfsstat3> {
        let where_ = at(dir, name);
        let made: CREATE3res = self.nfs(NFS_PROGRAM::NFSPROC3_CREATE, &CREATE3args { where_, how });
        checked(made).map(|made| made.obj.unwrap())
    }

    pub(super) fn mkdir(&self, dir: &nfs_fh3, name: &str, mode: u32) -> Result<nfs_fh3, nfsstat3> {
        let arguments = MKDIR3args {
            where_: at(dir, name),
            attributes: mode_of(mode),
        };
        let made: MKDIR3res = self.nfs(NFS_PROGRAM::NFSPROC3_MKDIR, &arguments);
        checked(made).map(|made| made.obj.unwrap())
    }

    pub(super) fn symlink(
        &self,
        dir: &nfs_fh3,
        name: &str,
        target: &str,
    ) -> Result<nfs_fh3, nfsstat3> {
        let symlink = symlinkdata3 {
            symlink_attributes: sattr3::default(),
            symlink_data: nfspath3(Opaque::borrowed(target.as_bytes())),
        };
        let where_ = at(dir, name);
        let made: SYMLINK3res = self.nfs(
            NFS_PROGRAM::NFSPROC3_SYMLINK,
            &SYMLINK3args { where_, symlink },
        );
        checked(made).map(|made| made.obj.unwrap())
    }

    pub(super) fn write(
        &self,
        file: &nfs_fh3,
        offset: u64,
        data: &[u8],
        stable: stable_how,
    ) -> Result<WRITE3resok, nfsstat3> {
        let arguments = WRITE3args {
            file: file.clone(),
            offset,
            count: u32::try_from(data.len()).unwrap(),
            stable,
            data: Opaque::borrowed(data),
        };
        let written: WRITE3res = self.nfs(NFS_PROGRAM::NFSPROC3_WRITE, &arguments);
        checked(written)
    }

    pub(super) fn read(
        &self,
        file: &nfs_fh3,
        offset: u64,
        count: u32,
    ) -> Result<(Vec<u8>, bool), nfsstat3> {
        let arguments = READ3args {
            file: file.clone(),
            offset,
            count,
        };
        let read: READ3res<'_> = self.nfs(NFS_PROGRAM::NFSPROC3_READ, &arguments);
        checked(read).map(|read| {
            assert_eq!(read.count as usize, read.data.len());
            (read.data.to_vec(), read.eof)
        })
    }

    pub(super) fn set(
        &self,
        object: &nfs_fh3,
        new_attributes: sattr3,
        guard: sattrguard3,
    ) -> Result<wcc_data, nfsstat3> {
        let arguments = SETATTR3args {
            object: object.clone(),
            new_attributes,
            guard,
        };
        let set: SETATTR3res = self.nfs(NFS_PROGRAM::NFSPROC3_SETATTR, &arguments);
        checked(set).map(|set| set.obj_wcc)
    }

    pub(super) fn remove(&self, dir: &nfs_fh3, name: &str) -> Result<wcc_data, nfsstat3> {
        let object = at(dir, name);
        let removed: REMOVE3res = self.nfs(NFS_PROGRAM::NFSPROC3_REMOVE, &REMOVE3args { object });
        checked(removed).map(|removed| removed.dir_wcc)
    }

    pub(super) fn rename(
        &self,
        from: (&nfs_fh3, &str),
        to: (&nfs_fh3, &str),
    ) -> Result<(), nfsstat3> {
        let arguments = RENAME3args {
            from: at(from.0, from.1),
            to: at(to.0, to.1),
        };
        let renamed: RENAME3res = self.nfs(NFS_PROGRAM::NFSPROC3_RENAME, &arguments);
        checked(renamed).map(drop)
    }
}

pub(super) fn at<'a>(dir: &nfs_fh3, name: &'a str) -> diropargs3<'a> {
    diropargs3 {
        dir: dir.clone(),
        name: name.as_bytes().into(),
    }
}

pub(super) fn mode_of(mode: u32) -> sattr3 {
    sattr3 {
        mode: Nfs3Option::Some(mode),
        ..sattr3::default()
    }
}

pub(super) fn checked<T, E>(result: Nfs3Result<T, E>) -> Result<T, nfsstat3> {
    match result {
        Nfs3Result::Ok(value) => Ok(value),
        Nfs3Result::Err((status, _)) => Err(status),
    }
}

pub(super) fn call(
    xid: u32,
    (prog, vers, proc): (u32, u32, u32),
    user: &auth_unix,
    arguments: &impl Pack,
) -> Vec<u8> {
    let body = call_body {
        rpcvers: 2,
        prog,
        vers,
        proc,
        cred: opaque_auth::auth_unix(user),
        verf: opaque_auth::default(),
    };
    let message = rpc_msg {
        xid,
        body: msg_body::CALL(body),
    };
    let mut bytes = Vec::new();
    message.pack(&mut bytes).unwrap();
    arguments.pack(&mut bytes).unwrap();
    bytes
}

/// The results in an answer that is nothing but them.
pub(super) fn results<R: Unpack>(answer: &[u8]) -> R {
    let mut rest = answer;
    let (message, _): (rpc_msg<'_, '_>, _) = Unpack::unpack(&mut rest).unwrap();
    let msg_body::REPLY(reply_body::MSG_ACCEPTED(accepted)) = message.body else {
        panic!("not accepted: {message:?}");
    };
    assert!(
        matches!(accepted.reply_data, accept_stat_data::SUCCESS),
        "{accepted:?}"
    );
    let (value, _) = R::unpack(&mut rest).unwrap();
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
    value
}

/// Whether nothing of a volume's directory but its tree is there.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
