//! A directory that is written as an image says, and never left.
//!
//! Every path of an image is resolved by the kernel with the directory as its
//! root (`openat2`, `RESOLVE_IN_ROOT`): neither `..` nor an absolute link leads
//! out, and links inside lead where they would in the running image. The last
//! part of a path is never followed. Files are made new, never opened for
//! writing where something is already.

use crate::Error;
use rustix::{
    fs::{self, AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

/// How often a lookup is tried that a rename elsewhere disturbed.
const LOOKUPS: usize = 16;

/// The root directory of a tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    /// The directory used last: neighbours in an archive are neighbours here.
    recent: Option<(PathBuf, OwnedFd)>,
}

/// Owner, mode and time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// User that owns it.
    pub uid: u32,
    /// Group that owns it.
    pub gid: u32,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// In seconds since 1970.
    pub mtime: u64,
}

impl Tree {
    /// A tree in an existing directory, which nobody else writes to.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty())
            .map_err(|error| Error::io("open", path)(error.into()))?;
        Ok(Self {
            root,
            path: path.to_owned(),
            recent: None,
        })
    }

    /// The tree's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lookup(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        for _ in 0..LOOKUPS {
            let found = fs::openat2(
                &self.root,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            match found {
                Err(Errno::AGAIN) => {}
                found => return found,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The directory at `path`, made with what is missing above it.
    fn directory(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        if let Some((recent, directory)) = &self.recent
            && recent == path
        {
            return rustix::io::fcntl_dupfd_cloexec(directory, 0);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let found = match self.lookup(path, flags) {
            Err(Errno::NOENT) => {
                let (parent, name) = split(path).ok_or(Errno::NOENT)?;
                let above = self.directory(parent)?;
                match fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                // A link to nowhere is not a directory that can be made.
                self.lookup(path, flags)?
            }
            found => found?,
        };
        let kept = rustix::io::fcntl_dupfd_cloexec(&found, 0)?;
        self.recent = Some((path.to_owned(), kept));
        Ok(found)
    }

    fn place<'a>(&mut self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (parent, name) = split(path).ok_or(Errno::INVAL)?;
        Ok((self.directory(parent)?, name))
    }

    /// Makes way for a new entry. A directory stays where one is to be.
    fn clear(&mut self, path: &Path, for_directory: bool) -> Result<(OwnedFd, OsString), Errno> {
        let (parent, name) = self.place(path)?;
        match fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => {
                let is_directory = fs::FileType::from_raw_mode(found.st_mode).is_dir();
                if !(is_directory && for_directory) {
                    remove(parent.as_fd(), name)?;
                    self.recent = None;
                }
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        Ok((parent, name.to_owned()))
    }

    /// Makes a regular file out of `content`.
    ///
    /// # Errors
    /// When it cannot be made or the content not be read.
    pub fn file(
        &mut self,
        path: &Path,
        attributes: Attributes,
        xattrs: &[(String, Vec<u8>)],
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let (parent, name) = self.clear(path, false)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(file);
        io::copy(content, &mut file)?;
        apply(file.as_fd(), attributes, xattrs)?;
        Ok(())
    }

    /// Makes a directory, or changes the one that is there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_directory(
        &mut self,
        path: &Path,
        attributes: Attributes,
        xattrs: &[(String, Vec<u8>)],
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = if path.as_os_str().is_empty() {
            self.lookup(path, OFlags::RDONLY | OFlags::DIRECTORY)?
        } else {
            let (parent, name) = self.clear(path, true)?;
            match fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            fs::openat(&parent, &name, flags, Mode::empty())?
        };
        apply(directory.as_fd(), attributes, xattrs)?;
        Ok(())
    }

    /// Makes a symbolic link; where it leads is not looked at.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn symlink(&mut self, path: &Path, to: &Path, attributes: Attributes) -> io::Result<()> {
        let (parent, name) = self.clear(path, false)?;
        self.recent = None;
        fs::symlinkat(to, &parent, &name)?;
        let (uid, gid) = owner(attributes);
        fs::chownat(&parent, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        fs::utimensat(
            &parent,
            &name,
            &times(attributes),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    /// Makes another name for an entry of the tree.
    ///
    /// # Errors
    /// When there is no such entry, or the name cannot be made.
    pub fn hard_link(&mut self, path: &Path, to: &Path) -> io::Result<()> {
        let (from, from_name) = self.place(to)?;
        if path == to {
            return Ok(());
        }
        let (parent, name) = self.clear(path, false)?;
        fs::linkat(&from, from_name, &parent, &name, AtFlags::empty())?;
        Ok(())
    }

    /// Makes a named pipe.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pipe(&mut self, path: &Path, attributes: Attributes) -> io::Result<()> {
        let (parent, name) = self.clear(path, false)?;
        fs::mknodat(
            &parent,
            &name,
            fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )?;
        let (uid, gid) = owner(attributes);
        fs::chownat(&parent, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        fs::chmodat(&parent, &name, mode(attributes), AtFlags::empty())?;
        Ok(())
    }

    /// Removes an entry with all below it; fine when there is none.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        let Some((parent, name)) = split(path) else {
            return Ok(());
        };
        self.recent = None;
        match self.lookup(parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => Ok(remove(parent.as_fd(), name)?),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what is below a directory and not in `keep` or above an entry of
    /// it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_below(&mut self, path: &Path, keep: &dyn Fn(&Path) -> bool) -> io::Result<()> {
        self.recent = None;
        for name in self.names(path)? {
            let child = path.join(&name);
            if !keep(&child) {
                self.remove(&child)?;
            } else if self.is_directory(&child) {
                self.remove_below(&child, keep)?;
            }
        }
        Ok(())
    }

    /// The names in a directory; none when there is no such directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let directory = match self.lookup(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        names(directory.as_fd()).map_err(io::Error::from)
    }

    fn is_directory(&self, path: &Path) -> bool {
        let Some((parent, name)) = split(path) else {
            return true;
        };
        self.lookup(parent, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|parent| fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW))
            .is_ok_and(|found| fs::FileType::from_raw_mode(found.st_mode).is_dir())
    }

    /// Whether something is at a path, links followed within the tree.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.lookup(Path::new(path), OFlags::PATH).is_ok()
    }

    /// Reads a regular file of at most `limit` bytes, links followed within the
    /// tree; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is longer.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        // A pipe or device must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.lookup(Path::new(path), flags) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!(
                "{path} has more than {limit} bytes"
            )));
        }
        Ok(Some(bytes))
    }

    /// Lets everybody write in a directory and all below it; fine when there is none.
    /// Files that have another name elsewhere stay as they are.
    ///
    /// # Errors
    /// When something cannot be changed.
    pub fn open_to_all(&self, path: &Path) -> io::Result<()> {
        match self.lookup(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => Ok(open_to_all(directory.as_fd())?),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file anew, with whatever is missing above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, path: &str, attributes: Attributes, content: &[u8]) -> io::Result<()> {
        self.file(Path::new(path), attributes, &[], &mut &content[..])
    }
}

/// Directory and name of a path that was checked.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

/// A member's path as it is inside the tree: relative, without `.`; empty for
/// the root. `None` for one that leads out.
#[must_use]
pub fn member_path(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => clean.push(part),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

fn owner(attributes: Attributes) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(attributes.uid)),
        Some(Gid::from_raw(attributes.gid)),
    )
}

fn mode(attributes: Attributes) -> Mode {
    Mode::from_raw_mode(attributes.mode & 0o7777)
}

fn times(attributes: Attributes) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(attributes.mtime).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The owner first: giving a file away takes setuid and capabilities from it.
fn apply(
    file: BorrowedFd<'_>,
    attributes: Attributes,
    xattrs: &[(String, Vec<u8>)],
) -> io::Result<()> {
    let (uid, gid) = owner(attributes);
    fs::fchown(file, uid, gid)?;
    fs::fchmod(file, mode(attributes))?;
    for (name, value) in xattrs {
        fs::fsetxattr(file, name.as_str(), value, fs::XattrFlags::empty())?;
    }
    fs::futimens(file, &times(attributes))?;
    Ok(())
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    use std::os::unix::ffi::OsStringExt;
    let mut found = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            found.push(OsString::from_vec(name));
        }
    }
    Ok(found)
}

fn open_to_all(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    const WRITE: u32 = 0o666;
    const SEARCH: u32 = 0o111;
    let own = fs::fstat(directory)?;
    let wider = own.st_mode | WRITE | SEARCH;
    fs::fchmod(directory, Mode::from_raw_mode(wider & 0o7777))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in names(directory)? {
        let found = fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = fs::FileType::from_raw_mode(found.st_mode);
        if kind.is_dir() {
            open_to_all(fs::openat(directory, &name, flags, Mode::empty())?.as_fd())?;
        } else if kind.is_file() && found.st_nlink == 1 {
            let search = if found.st_mode & SEARCH == 0 {
                0
            } else {
                SEARCH
            };
            let wider = Mode::from_raw_mode((found.st_mode | WRITE | search) & 0o7777);
            fs::chmodat(directory, &name, wider, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Removes an entry and all below it, following nothing.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = fs::openat(parent, name, flags, Mode::empty())?;
    for child in names(directory.as_fd())? {
        remove(directory.as_fd(), &child)?;
    }
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
