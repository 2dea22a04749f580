//! COPY: from the archive that a client uploaded to one that the guest's own
//! `tar` unpacks in the destination.
//!
//! The client's archive is read here, on the host, and never unpacked here: its
//! members are checked, selected, renamed, given owner and mode, and written
//! into a plain archive. So the guest needs no more of `tar` than every image
//! has, and owners are numbers that the guest's own files gave.

use crate::Copy;
use flate2::read::MultiGzDecoder;
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Component, Path, PathBuf},
};
use tar::{Archive, Builder, EntryType, Header};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("the uploaded files cannot be read as an archive: {0}")]
    Archive(#[source] io::Error),
    #[error("the uploaded archive has an entry outside of the context: {0}")]
    Escape(String),
    #[error("the uploaded archive has an entry that is no file, directory or link: {0}")]
    Kind(String),
    #[error("no uploaded file matches {0:?}")]
    NoMatch(String),
    #[error("the hard link {0} points to a file that is not copied")]
    Dangling(String),
    #[error("the copied files are larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("write the archive for the guest")]
    Write(#[source] io::Error),
}

/// What becomes of the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: Option<u32>,
}

/// What the source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// One file or link, by its name in the context.
    One(PathBuf),
    /// What lies below a directory (the whole context where empty).
    Below(PathBuf),
}

/// Finds out what the source means, by looking through the archive once.
pub(crate) fn select(archive: &Path, copy: &Copy) -> Result<Selection, CopyError> {
    let source =
        clean(Path::new(&copy.source)).ok_or_else(|| CopyError::Escape(copy.source.clone()))?;
    let fixed = fixed_part(&source);
    if fixed != source {
        return Ok(Selection::Below(fixed));
    }
    let mut seen_below = false;
    let mut reader = open(archive)?;
    for entry in reader.entries().map_err(CopyError::Archive)? {
        let entry = entry.map_err(CopyError::Archive)?;
        let name = member(&entry)?;
        if name == source && entry.header().entry_type() != EntryType::Directory {
            return Ok(Selection::One(source));
        }
        seen_below |= name.starts_with(&source);
    }
    if seen_below || source.as_os_str().is_empty() {
        Ok(Selection::Below(source))
    } else {
        Err(CopyError::NoMatch(copy.source.clone()))
    }
}

/// Writes the selected members, named relative to where they are unpacked. One
/// file is called `rename`. Returns how many members there are.
pub(crate) fn rewrite(
    archive: &Path,
    selection: &Selection,
    rename: &Path,
    ownership: Ownership,
    limit: u64,
    out: &mut File,
) -> Result<usize, CopyError> {
    let mut reader = open(archive)?;
    let mut writer = Builder::new(BufWriter::new(out));
    let (mut count, mut total) = (0, 0u64);
    for entry in reader.entries().map_err(CopyError::Archive)? {
        let mut entry = entry.map_err(CopyError::Archive)?;
        let name = member(&entry)?;
        let Some(target) = target(selection, rename, &name) else {
            continue;
        };
        total = total.saturating_add(entry.size());
        if total > limit {
            return Err(CopyError::TooLarge { limit });
        }
        append(
            &mut writer,
            &mut entry,
            selection,
            rename,
            &target,
            ownership,
        )?;
        count += 1;
    }
    let mut out = writer.into_inner().map_err(CopyError::Write)?;
    out.flush().map_err(CopyError::Write)?;
    if count == 0 {
        return Err(CopyError::NoMatch(format!("{selection:?}")));
    }
    Ok(count)
}

fn append<W: Write, R: Read>(
    writer: &mut Builder<W>,
    entry: &mut tar::Entry<'_, R>,
    selection: &Selection,
    rename: &Path,
    name: &Path,
    ownership: Ownership,
) -> Result<(), CopyError> {
    let kind = entry.header().entry_type();
    let shown = name.display().to_string();
    let mut header = Header::new_gnu();
    header.set_uid(ownership.uid.into());
    header.set_gid(ownership.gid.into());
    header.set_mtime(entry.header().mtime().unwrap_or(0));
    let own = entry.header().mode().unwrap_or(0o644) & 0o7777;
    header.set_size(0);
    let link = match entry.link_name().map_err(CopyError::Archive)? {
        Some(link) => link.into_owned(),
        None => PathBuf::new(),
    };
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(ownership.mode.unwrap_or(own));
            header.set_size(entry.size());
            writer
                .append_data(&mut header, name, entry)
                .map_err(CopyError::Write)
        }
        EntryType::Directory => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(ownership.mode.unwrap_or(own));
            writer
                .append_data(&mut header, name, io::empty())
                .map_err(CopyError::Write)
        }
        EntryType::Symlink => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            writer
                .append_link(&mut header, name, link)
                .map_err(CopyError::Write)
        }
        EntryType::Link => {
            header.set_entry_type(EntryType::Link);
            header.set_mode(ownership.mode.unwrap_or(own));
            let to = clean(&link).ok_or_else(|| CopyError::Escape(link.display().to_string()))?;
            let to = target(selection, rename, &to).ok_or(CopyError::Dangling(shown))?;
            writer
                .append_link(&mut header, name, to)
                .map_err(CopyError::Write)
        }
        _ => Err(CopyError::Kind(shown)),
    }
}

/// Where a member goes; `None` when it is not selected. The directory that
/// everything goes into is not a member of its own.
fn target(selection: &Selection, rename: &Path, name: &Path) -> Option<PathBuf> {
    match selection {
        Selection::One(source) => (name == source).then(|| rename.to_owned()),
        Selection::Below(directory) => {
            let rest = name.strip_prefix(directory).ok()?;
            (!rest.as_os_str().is_empty()).then(|| rest.to_owned())
        }
    }
}

fn member<R: Read>(entry: &tar::Entry<'_, R>) -> Result<PathBuf, CopyError> {
    let path = entry.path().map_err(CopyError::Archive)?;
    clean(&path).ok_or_else(|| CopyError::Escape(path.display().to_string()))
}

/// A relative path without `.`; `None` for one that leads out.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part),
            Component::ParentDir if parts.pop() => {}
            _ => return None,
        }
    }
    Some(parts)
}

/// The directories before the first pattern.
fn fixed_part(source: &Path) -> PathBuf {
    source
        .components()
        .take_while(|part| {
            let text = part.as_os_str().as_encoded_bytes();
            !text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
        })
        .collect()
}

fn open(path: &Path) -> Result<Archive<Box<dyn Read>>, CopyError> {
    let mut file = File::open(path).map_err(CopyError::Archive)?;
    let mut magic = [0; 2];
    let read = file.read(&mut magic).map_err(CopyError::Archive)?;
    file.rewind().map_err(CopyError::Archive)?;
    let file = BufReader::with_capacity(256 << 10, file);
    let reader: Box<dyn Read> = if magic[..read] == [0x1f, 0x8b] {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    Ok(Archive::new(reader))
}

#[cfg(test)]
mod tests;
