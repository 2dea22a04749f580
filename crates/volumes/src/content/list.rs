//! Listing directories.

use super::{Content, ContentError, Entry, EntryPath, EntryType, MAX_DEPTH, Result, target, told};
use crate::removal::is_self_or_parent;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;

/// What one list may hold, as all of it is in memory.
const MAX_ENTRIES: usize = 100_000;
/// Bytes of the names, paths and targets in it.
const MAX_BYTES: usize = 32 << 20;

impl Content {
    /// What is in a directory, in order of the names, each directory followed by what is
    /// in it down to a depth of 1 to [`MAX_DEPTH`].
    ///
    /// # Errors
    /// As [`Self::stat`]; [`ContentError::Depth`], [`ContentError::NotDirectory`],
    /// [`ContentError::Invalid`] for more than 100,000 entries, or 32 MiB of text.
    pub fn list(&self, path: &EntryPath, depth: u32) -> Result<Vec<Entry>> {
        if !(1..=MAX_DEPTH).contains(&depth) {
            return Err(ContentError::Depth);
        }
        let directory = self.directory(path)?;
        let mut prefix = path.text();
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        let mut entries = Vec::new();
        let mut bytes = MAX_BYTES;
        list(&directory, &prefix, depth, (&mut entries, &mut bytes))?;
        Ok(entries)
    }
}

/// Adds what is in a directory to the entries; `room` is what their text may still take.
fn list(
    directory: &OwnedFd,
    prefix: &str,
    depth: u32,
    (entries, room): (&mut Vec<Entry>, &mut usize),
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let mut names: Vec<CString> = Vec::new();
    for entry in Dir::read_from(&open)? {
        let entry = entry?;
        if !is_self_or_parent(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
        if entries.len() + names.len() > MAX_ENTRIES {
            return Err(ContentError::Invalid(
                "there are more than 100000 entries: list with a smaller depth, or parts of it",
            ));
        }
    }
    names.sort_unstable();
    for name in names {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(&open, &name, flags, Mode::empty()) {
            Ok(found) => found,
            // It went away meanwhile.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH)?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Some(target(found.as_fd())?),
            _ => None,
        };
        let name = name.to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let below = format!("{path}/");
        let text = name.len() + path.len() + target.as_ref().map_or(0, String::len);
        *room = room.checked_sub(text).ok_or(ContentError::Invalid(
            "the names are longer than 32 MiB together: list with a smaller depth, or parts of it",
        ))?;
        let entry = told(&stat, name, path, target);
        let descend = entry.kind == EntryType::Directory && depth > 1;
        entries.push(entry);
        if descend {
            list(&found, &below, depth - 1, (&mut *entries, &mut *room))?;
        }
    }
    Ok(())
}
