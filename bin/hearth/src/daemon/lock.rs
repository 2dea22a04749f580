//! One daemon per run directory: `hearth.pid` is locked by the daemon that runs
//! and names its process. The lock, not the number, tells whether it runs.

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Held for as long as the daemon runs.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    pub fn take(pid_file: &Path) -> anyhow::Result<Self> {
        if let Some(dir) = pid_file.parent() {
            // QEMU runs as another user and must reach its own sockets in here.
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(dir)
                .with_context(|| format!("make {}", dir.display()))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(pid_file)
            .with_context(|| format!("open {}", pid_file.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let pid = read_pid(&mut file)
                .map(|pid| format!(" (process {pid})"))
                .unwrap_or_default();
            bail!("Hearth runs already{pid}; `hearth down` stops it");
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        file.flush()?;
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
        let path = std::env::temp_dir().join(format!("hearth-lock-{}", std::process::id()));
        let first = Lock::take(&path).expect("free");
        assert!(
            Lock::take(&path)
                .expect_err("held")
                .to_string()
                .contains("runs already")
        );
        assert_eq!(holder(&path), Some(std::process::id()));
        drop(first);
        assert_eq!(holder(&path), None);
        drop(Lock::take(&path).expect("free again"));
        std::fs::remove_file(path).expect("it was made above");
    }
}
