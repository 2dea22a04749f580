//! The initramfs: the guest agent as `/init`, the modules that it loads, and
//! nothing else. Left uncompressed: the machine monitor copies it into memory,
//! and an emulated guest would spend longer unpacking than the copy takes.

use crate::{
    Error,
    artefact::{Key, Ready, Shelf},
    cpio,
    error::blocking,
    kernel::Kernel,
    progress::StageProgress,
};
use hearth_snapshot::{ContentDigest, Digest};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Raised when the archive's layout changes.
const RECIPE: &[u8] = b"initramfs 1";
const KIND: &str = "initramfs";
const FILE: &str = "initramfs.cpio";
/// An agent longer than this is refused, in bytes.
const MAX_AGENT_BYTES: u64 = 256 << 20;
/// Mount points that the agent uses before the root disk is there.
const DIRECTORIES: &[&str] = &["dev", "modules", "proc", "root", "run", "sys", "tmp"];

/// The archive, ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initramfs {
    pub path: PathBuf,
    /// BLAKE3 of the archive.
    pub digest: Digest,
    /// BLAKE3 of the agent inside.
    pub agent_digest: Digest,
    pub(crate) key: Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Details {
    /// Of the archive.
    #[serde(flatten)]
    content: ContentDigest,
    agent: Digest,
    kernel: String,
}

/// Finds or makes the initramfs for a kernel and an agent.
pub(crate) async fn build(
    shelf: &Shelf,
    kernel: &Kernel,
    agent: &Path,
    progress: StageProgress<'_>,
) -> Result<Initramfs, Error> {
    progress.step("read the guest agent");
    let agent_bytes = read_agent(agent)?;
    let agent_digest = Digest::of(&agent_bytes);
    let key = Key::new(
        KIND,
        &[RECIPE],
        &[kernel.key.as_bytes(), agent_digest.as_bytes()],
    );
    if let Some(ready) = shelf.find(&key).await? {
        progress.finished(ready.outcome);
        return Ok(finish(ready));
    }
    progress.step("write the archive");
    let mut modules = Vec::with_capacity(kernel.modules.len());
    for path in &kernel.modules {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        modules.push((name, fs::read(path).map_err(Error::io("read", path))?));
    }
    let assembled = shelf.temporary()?;
    let path = assembled.path().join(FILE);
    let blake3 = blocking(move || {
        let archive = archive(&agent_bytes, &modules).map_err(Error::io("assemble", FILE))?;
        fs::write(&path, &archive).map_err(Error::io("write", path))?;
        Ok(Digest::of(&archive))
    })
    .await?;
    let details = Details {
        content: ContentDigest { blake3 },
        agent: agent_digest,
        kernel: kernel.release.clone(),
    };
    let ready = shelf.store(&key, assembled, details).await?;
    progress.finished(ready.outcome);
    Ok(finish(ready))
}

fn finish(ready: Ready<Details>) -> Initramfs {
    Initramfs {
        path: ready.directory.join(FILE),
        digest: ready.details.content.blake3,
        agent_digest: ready.details.agent,
        key: ready.key,
    }
}

/// The whole archive. Modules are listed in `/modules.order`, one file name a
/// line, in the order in which they load.
fn archive(agent: &[u8], modules: &[(String, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut writer = cpio::Writer::new(Vec::new());
    for directory in DIRECTORIES {
        writer.directory(directory, 0o755)?;
    }
    // The kernel opens it for the first process before anything is mounted.
    writer.character_device("dev/console", 0o600, 5, 1)?;
    writer.character_device("dev/null", 0o666, 1, 3)?;
    let mut order = String::new();
    for (name, content) in modules {
        writer.file(&format!("modules/{name}"), 0o644, content)?;
        order.push_str(name);
        order.push('\n');
    }
    writer.file("modules.order", 0o644, order.as_bytes())?;
    writer.file("init", 0o755, agent)?;
    writer.finish()
}

/// Reads the agent and refuses what could not run as the first process.
fn read_agent(path: &Path) -> Result<Vec<u8>, Error> {
    let size = fs::metadata(path)
        .map_err(Error::io("inspect the guest agent", path))?
        .len();
    if size > MAX_AGENT_BYTES {
        return Err(Error::Host(format!(
            "the guest agent {} is longer than {MAX_AGENT_BYTES} bytes",
            path.display()
        )));
    }
    let bytes = fs::read(path).map_err(Error::io("read the guest agent", path))?;
    check_agent(&bytes)
        .map_err(|why| Error::Host(format!("the guest agent {} {why}", path.display())))?;
    Ok(bytes)
}

fn check_agent(bytes: &[u8]) -> Result<(), &'static str> {
    // 64 bits, little-endian, x86-64.
    if !bytes.starts_with(b"\x7fELF\x02\x01") || bytes.get(18..20) != Some(&[62, 0]) {
        return Err("is not an x86-64 program");
    }
    if crate::kernel::needs_interpreter(bytes) {
        return Err("is linked dynamically; the initramfs has no libraries for it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::tests::read;

    #[test]
    fn the_archive_holds_what_the_agent_expects() {
        let modules = [
            ("virtio.ko".to_owned(), b"one".to_vec()),
            ("virtio_blk.ko".to_owned(), b"two".to_vec()),
        ];
        let bytes = archive(b"agent", &modules).unwrap();
        assert_eq!(bytes, archive(b"agent", &modules).unwrap());
        let entries = read(&bytes);
        let content = |name: &str| {
            entries
                .iter()
                .find(|entry| entry.name == name)
                .map(|entry| entry.content.clone())
        };
        assert_eq!(content("init").unwrap(), b"agent");
        assert_eq!(
            content("modules.order").unwrap(),
            b"virtio.ko\nvirtio_blk.ko\n"
        );
        assert_eq!(content("modules/virtio_blk.ko").unwrap(), b"two");
        let console = entries.iter().find(|entry| entry.name == "dev/console");
        assert_eq!(console.unwrap().device, (5, 1));
    }

    #[test]
    fn an_agent_that_cannot_start_is_refused() {
        assert!(check_agent(b"#!/bin/sh\n").is_err());
        let dynamic = fs::read("/bin/true").unwrap();
        assert!(check_agent(&dynamic).is_err_and(|why| why.contains("dynamically")));
    }
}
