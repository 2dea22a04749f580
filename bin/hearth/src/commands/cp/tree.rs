//! Directories, as a tar archive through a command of the sandbox.

use super::{Guest, directory_of};
use anyhow::Context as _;
use bytes::Bytes;
use hearth_client::{CommandEvent, CommandStream};
use std::{
    io::{self, Write},
    path::Path,
};
use tokio::sync::mpsc;

/// Bytes of the archive that are sent at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for the other side.
const CHUNKS: usize = 4;
/// What of the sandbox's complaints is repeated here, in bytes.
const MAX_COMPLAINT_BYTES: usize = 4 << 10;

/// Copies the directory `from` to `to`, which is made, or whose files are replaced.
pub(super) async fn send(guest: &Guest, from: &Path, to: &str) -> anyhow::Result<()> {
    let unpack = "mkdir -p -- \"$1\" && exec tar -xf - -C \"$1\"";
    let mut command = guest.command("/bin/sh", &["-c", unpack, "sh", to]);
    command.stdin = true;
    let mut stream = guest.agent.start(command).await?;
    let pid = stream.pid();
    let (sender, mut chunks) = mpsc::channel(CHUNKS);
    let from = from.to_owned();
    let pack = tokio::task::spawn_blocking(move || pack(&from, ChunkWriter::new(sender)));
    let agent = guest.agent.clone();
    let send = async move {
        while let Some(chunk) = chunks.recv().await {
            if agent.send_stdin(pid, chunk).await.is_err() {
                // The command has ended; its own words say why.
                return;
            }
        }
        let _ = agent.close_stdin(pid).await;
    };
    let (unpacked, ()) = tokio::join!(finish(&mut stream, None), send);
    // Told first: that the archive is not wanted any more is but what follows.
    unpacked.with_context(|| format!("unpack into {to} in the sandbox"))?;
    pack.await?
}

/// Copies the sandbox's directory `from` to `to`, which is made, or whose files are
/// replaced.
pub(super) async fn fetch(guest: &Guest, from: &str, to: &Path) -> anyhow::Result<()> {
    let command = guest.command("tar", &["-cf", "-", "-C", from, "."]);
    let mut stream = guest.agent.start(command).await?;
    let directory = directory_of(to);
    anyhow::ensure!(
        directory.is_dir(),
        "{} is not a directory",
        directory.display()
    );
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let to = to.to_owned();
    let unpack = tokio::task::spawn_blocking(move || unpack(ChunkReader::new(receiver), &to));
    let packed = finish(&mut stream, Some(sender)).await;
    let unpacked = unpack.await?;
    packed.with_context(|| format!("pack {from} in the sandbox"))?;
    unpacked
}

/// Follows a command to its end; its output goes to `output` while that takes it.
async fn finish(
    stream: &mut CommandStream,
    output: Option<mpsc::Sender<Bytes>>,
) -> anyhow::Result<()> {
    let mut complaint = Vec::new();
    while let Some(event) = stream.next().await? {
        match event {
            CommandEvent::Stdout(bytes) => {
                if let Some(output) = &output {
                    // Whoever takes no more has a reason of its own to tell.
                    let _ = output.send(bytes.into()).await;
                }
            }
            CommandEvent::Stderr(bytes) => {
                let room = MAX_COMPLAINT_BYTES.saturating_sub(complaint.len());
                complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            CommandEvent::Ended(exit) => {
                let complaint = String::from_utf8_lossy(&complaint);
                let complaint = complaint.trim();
                anyhow::ensure!(
                    exit.exited && exit.code == 0,
                    "{}: {complaint}",
                    exit.status
                );
                return Ok(());
            }
            CommandEvent::Started { .. } | CommandEvent::Pty(_) => {}
        }
    }
    anyhow::bail!("the command's output ended before it did")
}

fn pack(from: &Path, to: ChunkWriter) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(to);
    // A link is copied as a link: what it names may be outside.
    archive.follow_symlinks(false);
    archive
        .append_dir_all(".", from)
        .and_then(|()| archive.into_inner())
        .and_then(|mut to| to.flush())
        .with_context(|| format!("read {}", from.display()))
}

/// The archive is a stranger's: nothing leaves the directory, and no owner, set-user-ID
/// bit or device comes of it.
fn unpack(from: ChunkReader, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_ownerships(false);
    archive.set_preserve_permissions(false);
    archive.set_unpack_xattrs(false);
    for entry in archive.entries()? {
        let mut entry = entry.context("read the archive")?;
        let kind = entry.header().entry_type();
        let name = entry.path()?.display().to_string();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            eprintln!("hearth: left out {name:?}, which is no file, directory or link");
            continue;
        }
        let kept = entry
            .unpack_in(to)
            .with_context(|| format!("write {name:?}"))?;
        anyhow::ensure!(kept, "{name:?} leads out of the directory");
    }
    Ok(())
}

/// Collects what is written into chunks for a channel.
struct ChunkWriter {
    sender: mpsc::Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    fn new(sender: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            sender,
            chunk: Vec::with_capacity(CHUNK_BYTES),
        }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.sender
            .blocking_send(chunk)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Reads the chunks of a channel, one after another.
struct ChunkReader {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl ChunkReader {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self {
            receiver,
            chunk: Bytes::new(),
        }
    }
}

impl io::Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        buffer[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn archive_of(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> ChunkReader {
        let mut archive = tar::Builder::new(Vec::new());
        build(&mut archive);
        let bytes = archive.into_inner().expect("an archive");
        let (sender, receiver) = mpsc::channel(bytes.len() / 100 + 1);
        for chunk in bytes.chunks(100) {
            let sent = sender.try_send(Bytes::copy_from_slice(chunk));
            sent.expect("room for all chunks");
        }
        ChunkReader::new(receiver)
    }

    fn entry(name: &str, kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        // As bytes: the library itself refuses to write some of these names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_cksum();
        header
    }

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let from = tempfile::tempdir().expect("a directory");
        let big = vec![7; 3 * CHUNK_BYTES + 1];
        std::fs::create_dir(from.path().join("sub")).expect("a directory");
        std::fs::write(from.path().join("sub/big"), &big).expect("a file");
        std::fs::write(from.path().join("empty"), "").expect("a file");
        symlink("sub/big", from.path().join("link")).expect("a link");
        symlink("/nonexistent", from.path().join("dangling")).expect("a link");
        let (sender, mut chunks) = mpsc::channel(100);
        pack(from.path(), ChunkWriter::new(sender)).expect("packs");
        let (out, receiver) = mpsc::channel(100);
        while let Some(chunk) = chunks.blocking_recv() {
            out.blocking_send(chunk.into()).expect("room");
        }
        drop(out);
        let to = tempfile::tempdir().expect("a directory");
        let target = to.path().join("copy");
        unpack(ChunkReader::new(receiver), &target).expect("unpacks");
        assert_eq!(std::fs::read(target.join("sub/big")).expect("a file"), big);
        assert_eq!(std::fs::read(target.join("link")).expect("a file"), big);
        assert_eq!(std::fs::read(target.join("empty")).expect("a file"), b"");
        let dangling = std::fs::read_link(target.join("dangling")).expect("a link");
        assert_eq!(dangling, Path::new("/nonexistent"));
    }

    #[test]
    fn a_hostile_archive_stays_in_its_directory() {
        let to = tempfile::tempdir().expect("a directory");
        let inside = to.path().join("inside");
        let file = tar::EntryType::Regular;
        for name in ["../escaped", "a/../../escaped"] {
            let archive = archive_of(|archive| {
                archive
                    .append(&entry(name, file, 0o644), io::empty())
                    .expect("appends");
            });
            assert!(unpack(archive, &inside).is_err(), "{name}");
            assert!(!to.path().join("escaped").exists());
        }
        let archive = archive_of(|archive| {
            let mut link = entry("way", tar::EntryType::Symlink, 0o777);
            link.set_link_name(to.path()).expect("a target");
            link.set_cksum();
            archive.append(&link, io::empty()).expect("appends");
            archive
                .append(&entry("way/escaped", file, 0o644), io::empty())
                .expect("appends");
        });
        assert!(unpack(archive, &inside).is_err());
        assert!(!to.path().join("escaped").exists());
    }

    #[test]
    fn set_user_id_bits_and_devices_are_left_out() {
        let to = tempfile::tempdir().expect("a directory");
        let archive = archive_of(|archive| {
            for (name, kind) in [
                ("program", tar::EntryType::Regular),
                ("device", tar::EntryType::Char),
                ("pipe", tar::EntryType::Fifo),
            ] {
                archive
                    .append(&entry(name, kind, 0o6755), io::empty())
                    .expect("appends");
            }
        });
        unpack(archive, to.path()).expect("unpacks");
        let program = std::fs::metadata(to.path().join("program")).expect("a file");
        assert_eq!(program.permissions().mode() & 0o7000, 0);
        assert!(!to.path().join("device").exists());
        assert!(!to.path().join("pipe").exists());
    }
}
