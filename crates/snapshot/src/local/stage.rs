//! Staging areas: where builds are put together, and what crashes left of them.

use super::{Inner, files::remove_directory};
use crate::{Error, Staging};
use hearth_ids::BuildId;
use rustix::fs::FlockOperation;
use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const STORE_LOCK: &str = ".lock";
const LOCK_SUFFIX: &str = ".lock";

impl Inner {
    pub(super) fn stage(&self, id: BuildId) -> Result<Staging, Error> {
        if self.directory(id).exists() {
            return Err(Error::Exists(id));
        }
        let base = self.staging();
        let _creating = self.lock()?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{id}-"))
            .tempdir_in(&base)
            .map_err(Error::io("create a directory in", &base))?
            .keep();
        let lock_path = lock_path(&directory);
        let lock = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock_path)
            .and_then(|lock| {
                rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                Ok(lock)
            })
            .map_err(Error::io("lock", &lock_path))?;
        Ok(Staging {
            id,
            directory,
            digests: HashMap::new(),
            lock,
            lock_path,
        })
    }

    /// Keeps making a staging area and sweeping apart, also between processes:
    /// between its directory and its lock, an area would look abandoned. Held
    /// for moments only.
    fn lock(&self) -> Result<File, Error> {
        let path = self.root.join(STORE_LOCK);
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
                Ok(file)
            })
            .map_err(Error::io("lock", path))
    }

    /// Deletes every staging area whose owner no longer lives.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        let base = self.staging();
        let _sweeping = self.lock()?;
        for entry in fs::read_dir(&base).map_err(Error::io("list", &base))? {
            let path = entry.map_err(Error::io("list", &base))?.path();
            if path.to_string_lossy().ends_with(LOCK_SUFFIX) {
                // Swept with its directory; alone, it belongs to a directory
                // that was published or removed already.
                if !path.with_extension("").exists() && !is_locked(&path) {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            let lock = lock_path(&path);
            if is_locked(&lock) {
                continue;
            }
            remove_directory(&path)?;
            let _ = fs::remove_file(&lock);
        }
        Ok(())
    }
}

fn lock_path(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(LOCK_SUFFIX);
    PathBuf::from(name)
}

/// Whether another holder has the lock. A missing file is not locked.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    })
}
