//! The kernel and initial RAM file system of a build, for a start from its disk
//! alone: found among the host's artefacts by the digests in the manifest. When
//! the very ones are gone, as after upgrades, the newest of each takes their
//! place: a disk is not bound to them as a memory is.

use hearth_snapshot::{ArtefactInfo, ContentDigest, Digest};
use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The file `name` of the artefact `<kind>-*` with this digest, or of the newest. One
/// that does not tell what it is serves only where there is no other.
pub(crate) fn find(root: &Path, kind: &str, name: &str, wanted: Digest) -> io::Result<PathBuf> {
    let mut best: Option<((bool, SystemTime), PathBuf)> = None;
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
        let info = ArtefactInfo::<ContentDigest>::load(&directory);
        if info
            .as_ref()
            .is_ok_and(|info| info.details.blake3 == wanted)
        {
            return Ok(file);
        }
        let rank = (info.is_ok(), std::fs::metadata(&directory)?.modified()?);
        if best.as_ref().is_none_or(|(found, _)| *found < rank) {
            best = Some((rank, file));
        }
    }
    best.map(|(_, file)| file).ok_or_else(|| {
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
            let blake3 = Digest::of(content);
            let info = ArtefactInfo::new(
                "kernel",
                (blake3, blake3),
                ContentDigest { blake3 },
                Vec::new(),
            );
            info.save(&directory).unwrap();
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
        let gone = || find(b"gone").unwrap();
        assert!(gone().starts_with(root.path().join("kernel-1")));
        // A damaged one is in nobody's way, and is better than none.
        for name in ["kernel-1", "kernel-2"] {
            let info = root.path().join(name).join(hearth_snapshot::ARTEFACT_FILE);
            std::fs::write(info, "{").unwrap();
            assert!(gone().starts_with(root.path().join(match name {
                "kernel-1" => "kernel-2",
                _ => "kernel-1",
            })));
        }
    }
}
