//! Deleting what is moved aside.
//!
//! One thread deletes whatever lies in the directory of removed things. It needs neither
//! recursion nor many descriptors, however deep a tree is: a directory within a directory
//! is first moved up beside it. What a process leaves undone, the next one finds there.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use uuid::Uuid;

/// Moves things aside, and has them deleted.
#[derive(Debug)]
pub(crate) struct Removal {
    directory: PathBuf,
    wake: SyncSender<()>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Removal {
    pub(crate) fn start(directory: PathBuf) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let work = {
            let (directory, stop) = (directory.clone(), Arc::clone(&stop));
            move || run(&directory, &woken, &stop)
        };
        let thread = std::thread::Builder::new().name("volume-removal".to_owned());
        Ok(Self {
            directory,
            wake,
            stop,
            thread: Some(thread.spawn(work)?),
        })
    }

    /// Moves something of the same file system aside: a file or a directory.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        self.take_at(CWD, path)
    }

    /// The same for an entry of an open directory.
    pub(crate) fn take_at(
        &self,
        parent: impl rustix::fd::AsFd,
        name: impl rustix::path::Arg,
    ) -> io::Result<()> {
        let aside = self.directory.join(Uuid::new_v4().to_string());
        let flags = RenameFlags::NOREPLACE;
        Ok(rustix::fs::renameat_with(parent, name, CWD, aside, flags)?)
    }

    /// Has everything that was moved aside deleted, soon.
    pub(crate) fn wake(&self) {
        // A thread that is woken already looks at all there is.
        let _ = self.wake.try_send(());
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(directory: &Path, woken: &Receiver<()>, stop: &AtomicBool) {
    while woken.recv().is_ok() && !stop.load(Ordering::Relaxed) {
        if let Err(error) = empty(directory, stop) {
            tracing::warn!(%error, directory = %directory.display(), "delete removed volumes failed");
        }
    }
}

/// Deletes everything in the directory. Rounds repeat, as each may move directories up.
fn empty(directory: &Path, stop: &AtomicBool) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    loop {
        let root = rustix::fs::open(directory, flags, Mode::empty())?;
        let (mut any, mut failure) = (false, None);
        for entry in Dir::read_from(&root)? {
            let entry = entry?;
            if is_self_or_parent(entry.file_name()) {
                continue;
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match delete(&root, entry.file_name(), stop) {
                Ok(()) => any = true,
                Err(error) => failure = Some(error),
            }
        }
        match (any, failure) {
            (true, _) => {}
            // What no round could delete waits for the next call.
            (false, Some(error)) => return Err(error),
            (false, None) => return Ok(()),
        }
    }
}

fn delete(root: &rustix::fd::OwnedFd, name: &std::ffi::CStr, stop: &AtomicBool) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(root, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Ok(rustix::fs::unlinkat(root, name, AtFlags::empty())?);
        }
        Err(error) => return Err(error.into()),
    };
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_self_or_parent(name) {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        match is_directory(&directory, &entry)? {
            true => {
                let up = Uuid::new_v4().to_string();
                rustix::fs::renameat_with(&directory, name, root, up, RenameFlags::NOREPLACE)?;
            }
            false => rustix::fs::unlinkat(&directory, name, AtFlags::empty())?,
        }
    }
    Ok(rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR)?)
}

fn is_directory(parent: &rustix::fd::OwnedFd, entry: &rustix::fs::DirEntry) -> io::Result<bool> {
    match entry.file_type() {
        FileType::Unknown => {
            let stat = rustix::fs::statat(parent, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        }
        known => Ok(known == FileType::Directory),
    }
}

pub(crate) fn is_self_or_parent(name: &std::ffi::CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
