//! The kernel and initial RAM file system of a build, for a start from its disk
//! alone: found among the host's artefacts by the digests in the manifest. When
//! the very ones are gone, as after upgrades, the newest of each takes their
//! place: a disk is not bound to them as a memory is.

use hearth_snapshot::Digest;
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

#[derive(Deserialize)]
struct Info {
    details: Details,
}

#[derive(Deserialize)]
struct Details {
    blake3: Digest,
}

/// The file `name` of the artefact `<kind>-*` with this digest, or of the newest.
pub(crate) fn find(root: &Path, kind: &str, name: &str, wanted: Digest) -> io::Result<PathBuf> {
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for entry in std::fs::read_dir(root)? {
        let directory = entry?.path();
        let ours = directory
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| {
                name.strip_prefix(kind)
                    .is_some_and(|key| key.starts_with('-'))
            });
        let file = directory.join(name);
        if !ours || !file.is_file() {
            continue;
        }
        let info = std::fs::read(directory.join("info.json"))?;
        if serde_json::from_slice::<Info>(&info).is_ok_and(|info| info.details.blake3 == wanted) {
            return Ok(file);
        }
        let made = std::fs::metadata(&directory)?.modified()?;
        if newest.as_ref().is_none_or(|(time, _)| *time < made) {
            newest = Some((made, file));
        }
    }
    newest.map(|(_, file)| file).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("no {kind} in {}", root.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_found_or_the_newest() {
        let root = tempfile::tempdir().unwrap();
        let add = |name: &str, content: &[u8]| {
            let directory = root.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("vmlinux"), content).unwrap();
            let info = serde_json::json!({ "details": { "blake3": Digest::of(content) } });
            std::fs::write(directory.join("info.json"), info.to_string()).unwrap();
            let times = std::fs::FileTimes::new().set_modified(
                SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(content.len() as u64),
            );
            std::fs::File::open(&directory)
                .unwrap()
                .set_times(times)
                .unwrap();
        };
        let find = |content: &[u8]| find(root.path(), "kernel", "vmlinux", Digest::of(content));
        assert!(find(b"a").is_err());
        add("kernel-1", b"longest");
        add("kernel-2", b"short");
        add("kernels", b"the longest of all");
        assert!(
            find(b"short")
                .unwrap()
                .starts_with(root.path().join("kernel-2"))
        );
        assert!(
            find(b"gone")
                .unwrap()
                .starts_with(root.path().join("kernel-1"))
        );
    }
}
