//! Archives of COPY sources, as clients upload them: one file per scope and
//! hash. An archive is whole or absent: pieces are gathered under another name
//! and renamed when the last byte is on disk.

use crate::{Error, FilesHash, Scope};
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use uuid::Uuid;

const ARRIVING: &str = "arriving";
/// An upload on which nothing came for this long is forgotten.
const STALE: Duration = Duration::from_secs(2 * 3600);

#[derive(Debug, Clone)]
pub(crate) struct Files {
    root: PathBuf,
    max_bytes: u64,
    /// Space on disk that uploads leave free, in bytes.
    reserve_bytes: u64,
}

/// A piece of an archive.
#[derive(Debug)]
pub struct Piece<'a> {
    pub upload: Uuid,
    /// Bytes sent before this piece.
    pub offset: u64,
    pub data: &'a [u8],
    /// Length of the whole archive in bytes.
    pub total_bytes: u64,
}

impl Files {
    pub(crate) fn open(root: PathBuf, max_bytes: u64, reserve_bytes: u64) -> Result<Self, Error> {
        let arriving = root.join(ARRIVING);
        // What was arriving when the daemon ended does not come to its end.
        match fs::remove_dir_all(&arriving) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", arriving)(error));
            }
            _ => {}
        }
        fs::create_dir_all(&arriving).map_err(Error::io("make", arriving))?;
        Ok(Self {
            root,
            max_bytes,
            reserve_bytes,
        })
    }

    pub(crate) fn path(&self, scope: &Scope, hash: &FilesHash) -> PathBuf {
        self.root.join(scope.as_str()).join(hash.as_str())
    }

    /// Drops an archive that is of no use, so that it is uploaded again.
    pub(crate) fn forget(&self, scope: &Scope, hash: &FilesHash) {
        let path = self.path(scope, hash);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove uploaded files");
        }
    }

    pub(crate) fn has(&self, scope: &Scope, hash: &FilesHash) -> bool {
        let path = self.path(scope, hash);
        // Used now: it is not among the oldest.
        File::open(path)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .is_ok()
    }

    /// Adds a piece; answers whether the archive is whole.
    pub(crate) fn add(
        &self,
        scope: &Scope,
        hash: &FilesHash,
        piece: &Piece<'_>,
    ) -> Result<bool, Error> {
        let end = piece.offset.checked_add(piece.data.len() as u64);
        if piece.total_bytes > self.max_bytes {
            return Err(Error::Invalid(format!(
                "an archive may have at most {} bytes",
                self.max_bytes
            )));
        }
        if end.is_none_or(|end| end > piece.total_bytes) {
            return Err(Error::Invalid(
                "the piece is longer than the archive".to_owned(),
            ));
        }
        let path = self.root.join(ARRIVING).join(piece.upload.to_string());
        if piece.offset == 0 {
            self.sweep();
            self.check_space(piece.total_bytes)?;
        }
        let file = File::options()
            .write(true)
            .create_new(piece.offset == 0)
            .open(&path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists => out_of_order(),
                _ => Error::io("open", &path)(error),
            })?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| out_of_order())?;
        if file.metadata().map_err(Error::io("inspect", &path))?.len() != piece.offset {
            return Err(out_of_order());
        }
        file.write_all_at(piece.data, piece.offset)
            .map_err(Error::io("write", &path))?;
        if end != Some(piece.total_bytes) {
            return Ok(false);
        }
        file.sync_data().map_err(Error::io("flush", &path))?;
        let target = self.path(scope, hash);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
        }
        fs::rename(&path, &target).map_err(Error::io("store", target))?;
        Ok(true)
    }

    fn check_space(&self, wanted: u64) -> Result<(), Error> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|error| Error::io("measure", &self.root)(error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < wanted.saturating_add(self.reserve_bytes) {
            return Err(Error::Busy(
                "the node has no disk space left for this upload".to_owned(),
            ));
        }
        Ok(())
    }

    /// Forgets uploads that nobody continues.
    fn sweep(&self) {
        for (path, age) in aged(&self.root.join(ARRIVING)) {
            if age > STALE {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes archives that were not asked for since `age`.
    pub(crate) fn expire(&self, age: Duration) {
        let Ok(scopes) = fs::read_dir(&self.root) else {
            return;
        };
        for scope in scopes.filter_map(Result::ok) {
            if scope.file_name() == ARRIVING {
                continue;
            }
            for (path, unused) in aged(&scope.path()) {
                if unused > age {
                    let _ = fs::remove_file(path);
                }
            }
        }
    }
}

fn aged(directory: &Path) -> Vec<(PathBuf, Duration)> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            Some((entry.path(), modified.elapsed().unwrap_or_default()))
        })
        .collect()
}

fn out_of_order() -> Error {
    Error::Invalid("the piece does not continue the upload".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(upload: Uuid, offset: u64, data: &[u8], total_bytes: u64) -> Piece<'_> {
        Piece {
            upload,
            offset,
            data,
            total_bytes,
        }
    }

    #[test]
    fn an_archive_appears_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::open(root.path().join("files"), 100, 0).unwrap();
        let (scope, other): (Scope, Scope) = ("a".parse().unwrap(), "b".parse().unwrap());
        let hash: FilesHash = "0f".repeat(32).parse().unwrap();
        let upload = Uuid::new_v4();
        assert!(
            !files
                .add(&scope, &hash, &piece(upload, 0, b"abc", 6))
                .unwrap()
        );
        assert!(!files.has(&scope, &hash));
        assert!(
            files
                .add(&scope, &hash, &piece(upload, 3, b"def", 6))
                .unwrap()
        );
        assert!(files.has(&scope, &hash) && !files.has(&other, &hash));
        assert_eq!(fs::read(files.path(&scope, &hash)).unwrap(), b"abcdef");
    }

    #[test]
    fn pieces_that_lie_about_their_place_or_length_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::open(root.path().join("files"), 100, 0).unwrap();
        let scope: Scope = "a".parse().unwrap();
        let hash: FilesHash = "0f".repeat(32).parse().unwrap();
        let upload = Uuid::new_v4();
        let refused = |piece: Piece<'_>| files.add(&scope, &hash, &piece).is_err();
        assert!(refused(piece(upload, 3, b"abc", 6)), "no beginning");
        assert!(refused(piece(upload, 0, b"abc", 2)), "longer than said");
        assert!(refused(piece(upload, 0, b"abc", 101)), "too large");
        assert!(refused(piece(upload, u64::MAX, b"abc", 6)), "overflow");
        files
            .add(&scope, &hash, &piece(upload, 0, b"abc", 6))
            .unwrap();
        assert!(refused(piece(upload, 0, b"abc", 6)), "twice");
        assert!(refused(piece(upload, 2, b"c", 6)), "overlap");
        assert!(!files.has(&scope, &hash));
        drop(files);
        // The next start forgets what was arriving.
        let files = Files::open(root.path().join("files"), 100, 0).unwrap();
        assert!(
            files
                .add(&scope, &hash, &piece(upload, 3, b"def", 6))
                .is_err()
        );
    }
}
