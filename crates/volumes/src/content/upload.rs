//! Writing a file: beside the tree first, in its place by one rename when it is whole. A
//! broken upload leaves what was there.

use super::{Attributes, Content, ContentError, Entry, EntryPath, EntryType, Result, apply, sync};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use uuid::Uuid;

/// How often an upload asks anew how much of the disk is free.
const ASKED_EACH: u64 = 16 << 20;

/// A file on its way. Dropping it leaves everything as it was.
#[derive(Debug)]
pub struct Upload {
    content: Content,
    path: EntryPath,
    parent: OwnedFd,
    attributes: Attributes,
    force: bool,
    staged: Option<PathBuf>,
    file: OwnedFd,
    room: u64,
    written: u64,
    /// It replaces nothing.
    new: bool,
}

impl Content {
    /// Begins to write a file. With `force` the directories that it is in are made where
    /// they are missing, and a file that is there is replaced, whose owner and mode stay
    /// where none is given; without, there must be none. `announced` is how many bytes
    /// will come, where that is known.
    ///
    /// # Errors
    /// As [`Self::stat`]; [`ContentError::Exists`], [`ContentError::IsDirectory`],
    /// [`ContentError::NoSpace`].
    pub fn upload(
        &self,
        path: EntryPath,
        attributes: Attributes,
        force: bool,
        announced: Option<u64>,
    ) -> Result<Upload> {
        let attributes = attributes.check()?;
        let Some((parent, _)) = path.split() else {
            return Err(ContentError::IsDirectory);
        };
        let room = self.check_room(announced.unwrap_or(0))?;
        let parent = self.parent(&parent, attributes.or_default(0o777), force)?;
        let new = matches!(self.stat(&path), Err(ContentError::NotFound));
        let attributes = self.attributes(&path, attributes, force)?;
        let staged = self.volumes.staged(Uuid::new_v4());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&staged, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Upload {
            content: self.clone(),
            path,
            parent,
            attributes,
            force,
            staged: Some(staged),
            file,
            room,
            written: 0,
            new,
        })
    }

    /// What the file gets, from what is in its place.
    fn attributes(&self, path: &EntryPath, wanted: Attributes, force: bool) -> Result<Attributes> {
        match self.stat(path) {
            Ok(_) if !force => Err(ContentError::Exists),
            Ok(there) => match there.kind {
                EntryType::Directory => Err(ContentError::IsDirectory),
                EntryType::File => Ok(Attributes {
                    uid: wanted.uid.or(Some(there.uid)),
                    gid: wanted.gid.or(Some(there.gid)),
                    mode: wanted.mode.or(Some(there.mode)),
                }),
                _ => Ok(wanted.or_default(0o666)),
            },
            Err(ContentError::NotFound) => {
                self.check_entries()?;
                Ok(wanted.or_default(0o666))
            }
            Err(error) => Err(error),
        }
    }
}

impl Upload {
    /// The file, for whoever writes to it. What is written is to be told first, by
    /// [`Self::take`].
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn file(&self) -> io::Result<File> {
        Ok(File::from(self.file.try_clone()?))
    }

    /// Says that so many bytes more will be written.
    ///
    /// # Errors
    /// [`ContentError::NoSpace`] where the volume has no room for them.
    pub fn take(&mut self, bytes: usize) -> Result<()> {
        let (volumes, bytes) = (&self.content.volumes, bytes as u64);
        let before = self.written;
        self.written = before.saturating_add(bytes);
        // With what others upload at the same time.
        let arriving = volumes.arriving.add(self.content.id, bytes);
        let ask = before / ASKED_EACH != self.written / ASKED_EACH;
        if arriving > self.room || (ask && volumes.free()? < bytes) {
            return Err(self.content.no_room());
        }
        Ok(())
    }

    /// Puts the file, all of which is written, in its place. It is on disk when this
    /// returns.
    ///
    /// # Errors
    /// [`ContentError::Exists`], [`ContentError::IsDirectory`] when something came to be
    /// there meanwhile; [`ContentError::NotFound`] when the directory went away.
    pub fn finish(mut self) -> Result<Entry> {
        apply(&self.file, self.attributes)?;
        rustix::fs::fsync(&self.file)?;
        let Some((_, name)) = self.path.split() else {
            return Err(ContentError::IsDirectory);
        };
        let Some(staged) = &self.staged else {
            return Err(ContentError::NotFound);
        };
        let flags = match self.force {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        match rustix::fs::renameat_with(CWD, staged, &self.parent, name, flags) {
            Ok(()) => self.staged = None,
            Err(Errno::NOTEMPTY) => return Err(ContentError::IsDirectory),
            Err(error) => return Err(error.into()),
        }
        sync(&self.parent)?;
        let volumes = &self.content.volumes;
        volumes.note_written(self.content.id, self.written);
        if self.new {
            volumes.note_made(self.content.id);
        }
        let found = super::Found {
            stat: rustix::fs::statat(&self.file, "", AtFlags::EMPTY_PATH)?,
            descriptor: self.file.try_clone()?,
        };
        super::entry(&found, self.path.name(), self.path.text())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let arriving = &self.content.volumes.arriving;
        arriving.remove(self.content.id, self.written);
        if let Some(staged) = self.staged.take()
            && let Err(error) = std::fs::remove_file(&staged)
        {
            // The next start removes it.
            tracing::warn!(%error, "remove broken upload failed");
        }
    }
}
