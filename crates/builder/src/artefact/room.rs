//! One locked directory of artefacts: what is put there is whole, and the oldest go.

use super::Key;
use crate::Error;
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

pub(super) const TEMPORARY: &str = ".tmp";
const LOCK: &str = ".lock";
/// How many artefacts of one kind are kept in the state directory and in the
/// cache.
pub(super) const KEPT: usize = 3;

/// One locked directory of artefacts.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) root: PathBuf,
    /// Held for the shelf's life.
    _lock: File,
}

impl Room {
    /// Takes the directory's lock, or `None` when another builder has it.
    pub(super) fn try_lock(root: &Path) -> Result<Option<File>, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(root)
            .map_err(Error::io("create", root))?;
        let path = root.join(LOCK);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::io("lock", path)(error.into())),
        }
    }

    pub(super) fn open(root: &Path, lock: File) -> Result<Self, Error> {
        let temporary = root.join(TEMPORARY);
        fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
        for entry in fs::read_dir(&temporary).map_err(Error::io("list", &temporary))? {
            let path = entry.map_err(Error::io("list", &temporary))?.path();
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn temporary(&self) -> Result<tempfile::TempDir, Error> {
        let base = self.root.join(TEMPORARY);
        tempfile::Builder::new()
            .prefix("build-")
            .tempdir_in(&base)
            .map_err(Error::io("create a directory in", base))
    }

    /// Moves an assembled directory to its name. An artefact of the same key is
    /// the same artefact, unless it is damaged: it is replaced.
    pub(super) fn place(&self, key: &Key, assembled: tempfile::TempDir) -> Result<PathBuf, Error> {
        let directory = self.root.join(key.directory_name());
        rustix::fs::chmod(assembled.path(), rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(|error| Error::io("open up", assembled.path())(error.into()))?;
        sync_tree(assembled.path())?;
        let old = self.temporary()?;
        match fs::rename(&directory, old.path().join("old")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("replace", directory)(error)),
        }
        fs::rename(assembled.path(), &directory).map_err(Error::io("publish", &directory))?;
        // Renamed away: nothing is left to clean.
        let _ = assembled.keep();
        File::open(&self.root)
            .and_then(|root| root.sync_all())
            .map_err(Error::io("flush", &self.root))?;
        for outdated in by_age(&self.root, key.kind)?.into_iter().skip(KEPT) {
            let _ = fs::remove_dir_all(outdated);
        }
        Ok(directory)
    }
}

pub(super) fn occupied(root: &Path, waited: Duration) -> Error {
    Error::Host(format!(
        "another builder has held {} for more than {} s",
        root.display(),
        waited.as_secs()
    ))
}

fn sync_tree(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let path = entry.map_err(Error::io("list", directory))?.path();
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(Error::io("flush", path))?;
    }
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("flush", directory))
}

/// The artefacts of one kind, newest first.
pub(super) fn by_age(root: &Path, kind: &str) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(Error::io("list", root))? {
        let entry = entry.map_err(Error::io("list", root))?;
        let ours = entry
            .file_name()
            .to_str()
            .and_then(|name| name.rsplit_once('-'))
            .is_some_and(|(found, _)| found == kind);
        if ours && let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
            found.push((modified, entry.path()));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
