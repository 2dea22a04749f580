//! Files of a VM's run directory: made for it, and taken away again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::Error;

/// Length of a unix socket's path that the kernel accepts, in bytes.
pub(crate) const SOCKET_PATH_LIMIT: usize = 107;
/// How much of the log is quoted in an error, in bytes.
const LOG_TAIL: u64 = 2048;

/// Files that a failed start takes away again.
#[derive(Debug, Default)]
pub(crate) struct Made {
    paths: Vec<PathBuf>,
}

impl Made {
    /// Has `path` taken away when this is dropped.
    pub(crate) fn push(&mut self, path: &Path) {
        self.paths.push(path.to_owned());
    }

    /// The start went well: the files stay.
    pub(crate) fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.paths {
            remove(path);
        }
    }
}

/// Removes a file that may not exist.
pub(crate) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "removing a file failed"),
    }
}

/// Makes the control socket. The VM process inherits the listener, so it has no access to the
/// path, and nobody but root can connect.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, Error> {
    if path.as_os_str().len() > SOCKET_PATH_LIMIT {
        return Err(Error::InvalidSpec(
            "the run directory's path is too long".to_owned(),
        ));
    }
    remove(path);
    let listener = UnixListener::bind(path).map_err(Error::io("listen on", path))?;
    let private = fs::Permissions::from_mode(0o600);
    if let Err(source) = fs::set_permissions(path, private) {
        remove(path);
        return Err(Error::Io {
            action: "restrict",
            path: path.to_owned(),
            source,
        });
    }
    Ok(listener)
}

/// A fresh log that only root reads; never through a link somebody left there.
pub(crate) fn create_log(path: &Path) -> Result<File, Error> {
    remove(path);
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create log", path))
}

/// Opens a kernel or initramfs. An engine may open it again through `/proc/self/fd`, so a
/// confined one needs it to be readable by everybody.
pub(crate) fn open_public(path: &Path, confined: bool) -> Result<File, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mode = file.metadata().map_err(Error::io("look at", path))?.mode();
    if confined && mode & 0o004 == 0 {
        return Err(Error::InvalidSpec(format!(
            "{} is not readable by everybody, as kernel and initramfs must be",
            path.display()
        )));
    }
    Ok(file)
}

/// The last lines of a log, but for those that contain one of `harmless`.
pub(crate) fn log_tail(path: &Path, harmless: &[&str]) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    String::from_utf8_lossy(&tail)
        .lines()
        .filter(|line| !harmless.iter().any(|known| line.contains(known)))
        .filter(|line| !line.trim().is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}
