//! One daemon per run directory: `hearth.pid` is locked by the daemon that runs
//! and names its process. The lock, not the number, tells whether it runs.

use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A daemon runs; the field is its process, for a message.
    #[error("Hearth runs already{}; `hearth down` stops it", process(*.0))]
    Held(Option<u32>),
    /// The file or its folder cannot be made.
    #[error("{action} {}", path.display())]
    Io {
        /// What failed.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// Held for as long as the daemon runs.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock and writes this process into its file, which is made when there is
    /// none.
    ///
    /// # Errors
    /// [`LockError::Held`] while another process has it, [`LockError::Io`] when the file
    /// cannot be made or written.
    pub fn take(pid_file: &Path) -> Result<Self, LockError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Io {
                action,
                path,
                source,
            }
        };
        if let Some(dir) = pid_file.parent() {
            // QEMU runs as another user and must reach its own sockets in here.
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(dir)
                .map_err(failed("make", dir))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(pid_file)
            .map_err(failed("open", pid_file))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(LockError::Held(read_pid(&mut file)));
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .and_then(|()| file.flush())
            .map_err(failed("write", pid_file))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The number is worthless from here on; the lock goes with the file.
        let _ = self.file.set_len(0);
    }
}

/// The process id of the daemon that runs, if one does.
#[must_use]
pub fn holder(pid_file: &Path) -> Option<u32> {
    let mut file = File::open(pid_file).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => read_pid(&mut file),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("run").join("hearth.pid");
        let first = Lock::take(&path).expect("free");
        let refused = Lock::take(&path).expect_err("held");
        assert!(matches!(refused, LockError::Held(Some(pid)) if pid == std::process::id()));
        assert!(refused.to_string().contains("runs already"), "{refused}");
        assert_eq!(holder(&path), Some(std::process::id()));
        drop(first);
        assert_eq!(holder(&path), None);
        drop(Lock::take(&path).expect("free again"));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        let refused = Lock::take(&file.join("hearth.pid")).expect_err("a file is no folder");
        assert!(refused.to_string().contains("file"), "{refused}");
        assert_eq!(holder(&file.join("hearth.pid")), None);
    }
}
