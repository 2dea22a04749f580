//! `POST /files/compose`: several files become one, without their bytes passing
//! through the agent. The sources are removed afterwards.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;

use super::names::native;
use super::owner::Owner;
use super::upload::{WriteInfo, create};
use super::{Actor, FileError};
use crate::files::error::Kind;

/// Sources of one request.
const MAX_SOURCES: usize = 10_000;
/// Bytes that are copied in one system call.
const COPY_BYTES: usize = 64 * 1024 * 1024;

/// Body of the request.
#[derive(Debug, serde::Deserialize)]
pub struct ComposeRequest {
    pub source_paths: Vec<String>,
    pub destination: String,
    #[serde(default)]
    pub username: Option<String>,
}

/// Composes the files.
pub async fn compose(actor: &Actor, request: ComposeRequest) -> Result<WriteInfo, FileError> {
    if request.source_paths.is_empty() {
        return Err(FileError::invalid("source_paths is empty"));
    }
    if request.source_paths.len() > MAX_SOURCES {
        return Err(FileError::invalid(format!(
            "more than {MAX_SOURCES} source_paths"
        )));
    }
    if request.destination.is_empty() {
        return Err(FileError::invalid("destination is empty"));
    }
    let destination = actor.resolve(&request.destination)?;
    let sources = request
        .source_paths
        .iter()
        .map(|path| actor.resolve(path))
        .collect::<Result<Vec<_>, _>>()?;
    let owner = actor.owner();
    actor
        .run(move || concatenate(&sources, &destination, owner))
        .await
}

fn concatenate(
    sources: &[String],
    destination: &str,
    owner: Owner,
) -> Result<WriteInfo, FileError> {
    // All are opened before anything is written: a missing one spoils nothing.
    let opened = sources
        .iter()
        .map(|path| open_source(path))
        .collect::<Result<Vec<_>, _>>()?;
    let target = std::fs::metadata(native(destination)).ok();
    let same = target.is_some_and(|target| {
        opened.iter().any(|file| {
            file.metadata()
                .is_ok_and(|source| is_same(&source, &target))
        })
    });
    if same {
        return Err(FileError::invalid(format!(
            "destination is also a source: {destination}"
        )));
    }
    let target = create(destination, &BTreeMap::new(), owner)?;
    for (path, source) in sources.iter().zip(&opened) {
        copy(source, &target)
            .map_err(|error| FileError::from_io(&format!("error copying '{path}'"), &error))?;
    }
    for path in sources {
        match std::fs::remove_file(native(path)) {
            // Named twice.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result
                .map_err(|error| FileError::from_io(&format!("error removing '{path}'"), &error))?,
        }
    }
    Ok(WriteInfo::new(destination, BTreeMap::new()))
}

fn open_source(path: &str) -> Result<File, FileError> {
    let failed = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            FileError::new(Kind::NotFound, format!("path '{path}' does not exist"))
        } else {
            FileError::from_io(&format!("error opening file '{path}'"), &error)
        }
    };
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(native(path))
        .map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(FileError::invalid(format!(
            "path '{path}' is not a regular file"
        )))
    }
}

fn is_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    one.dev() == other.dev() && one.ino() == other.ino()
}

/// In the kernel where it can, else through memory.
fn copy(source: &File, target: &File) -> std::io::Result<()> {
    use rustix::io::Errno;
    loop {
        match rustix::fs::copy_file_range(source, None, target, None, COPY_BYTES) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let (mut source, mut target) = (source, target);
                return std::io::copy(&mut source, &mut target).map(|_| ());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_joined_in_order_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("a"), "one ").unwrap();
        std::fs::write(path("b"), "two").unwrap();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let me = Owner::new(uid.as_raw(), gid.as_raw());
        let missing = concatenate(&[path("a"), path("x")], &path("out"), me);
        assert_eq!(missing.unwrap_err().kind, Kind::NotFound);
        assert!(!std::fs::exists(path("out")).unwrap());
        let own = concatenate(&[path("a")], &path("a"), me);
        assert_eq!(own.unwrap_err().kind, Kind::Invalid);

        let info = concatenate(&[path("b"), path("a")], &path("deep/out"), me).unwrap();
        assert_eq!((info.name.as_str(), info.kind), ("out", "file"));
        assert_eq!(
            std::fs::read_to_string(path("deep/out")).unwrap(),
            "twoone "
        );
        assert!(!std::fs::exists(path("a")).unwrap() && !std::fs::exists(path("b")).unwrap());
    }
}
