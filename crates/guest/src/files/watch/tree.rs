//! One watched directory tree on one inotify instance.
//!
//! Each watched directory has a kernel descriptor and a path relative to the
//! root. A directory that appears is watched and then read, because things may
//! have been made in it before the watch was there; the kernel may report some
//! of those as well, and such second reports are left out. A directory that is
//! moved keeps its watch and gets its new path.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use hearth_guest_proto::filesystem::EventType;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Change, FileError, Options, join};
use crate::files::entry::not_found;
use crate::files::error::Kind;
use crate::files::names::{native, shown};
use crate::handover::state::Inherited;
use crate::sys::{inherit, readiness};

/// Directories of one tree.
const MAX_DIRECTORIES: usize = 16_384;
const BUFFER_BYTES: usize = 16 * 1024;

/// File systems whose changes may be made elsewhere: NFS, FUSE, SMB and kin.
const NETWORK_FILE_SYSTEMS: [u32; 7] = [
    0x6969,
    0x6573_5546,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x5346_414f,
];

/// A watched tree.
#[derive(Debug)]
pub struct Tree {
    fd: Arc<AsyncFd<OwnedFd>>,
    root: String,
    recursive: bool,
    directories: HashMap<i32, Directory>,
    /// A directory that left its place and may turn up at another.
    leaving: Option<Leaving>,
    buffer: Box<[MaybeUninit<u8>]>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Directory {
    /// Relative to the root, which is "".
    path: String,
    /// Names that were told when the directory was read; the kernel's own
    /// report of their creation is still to come, or was missed.
    told: HashSet<String>,
}

#[derive(Debug)]
struct Leaving {
    cookie: u32,
    path: String,
}

/// What a tree leaves to the agent's successor: the kernel's watches stay.
#[derive(Debug, Serialize, Deserialize)]
pub struct TreeState {
    fd: Inherited,
    root: String,
    recursive: bool,
    directories: Vec<(i32, Directory)>,
}

/// One event as the kernel gives it.
#[derive(Debug)]
struct Raw {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<String>,
}

impl Tree {
    /// Watches `root`, which must be a directory. Blocking; must run inside the
    /// runtime.
    pub fn open(root: &str, options: Options) -> Result<Self, FileError> {
        let metadata = std::fs::metadata(native(root)).map_err(|error| not_found(root, &error))?;
        if !metadata.is_dir() {
            return Err(FileError::invalid(format!(
                "path is not a directory: {root}"
            )));
        }
        if !options.allow_network_mounts && is_network_mount(root) {
            return Err(FileError::invalid(format!(
                "cannot watch path on network filesystem: {root}"
            )));
        }
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| watch_error(root, error))?;
        let fd = readiness::watch(fd, Interest::READABLE)
            .map_err(|error| FileError::from_io("error watching", &error))?;
        let mut tree = Self {
            fd: Arc::new(fd),
            root: root.to_owned(),
            recursive: options.recursive,
            directories: HashMap::new(),
            leaving: None,
            buffer: new_buffer(),
        };
        tree.watch(String::new())?;
        if options.recursive {
            // What is there already is no news.
            tree.watch_below("", &mut Vec::new())?;
        }
        Ok(tree)
    }

    pub fn state_for_successor(&mut self) -> std::io::Result<TreeState> {
        if let Some(left) = self.leaving.take() {
            self.unwatch(&left.path);
        }
        let directories = self.directories.iter();
        Ok(TreeState {
            fd: Inherited(inherit::bequeath(self.fd.get_ref().as_fd())?),
            root: self.root.clone(),
            recursive: self.recursive,
            directories: directories
                .map(|(watch, directory)| (*watch, directory.clone()))
                .collect(),
        })
    }

    /// Goes on with what the predecessor watched. Must run inside the runtime.
    pub fn adopt(state: TreeState) -> std::io::Result<Self> {
        let fd = inherit::adopt(state.fd.0)?;
        Ok(Self {
            fd: Arc::new(readiness::watch(fd, Interest::READABLE)?),
            root: state.root,
            recursive: state.recursive,
            directories: state.directories.into_iter().collect(),
            leaving: None,
            buffer: new_buffer(),
        })
    }

    pub fn root(&self) -> &str {
        &self.root
    }

    /// To wait on for something to read. Whoever waits takes a readiness guard,
    /// reads, and only then clears the guard: what comes meanwhile makes it
    /// ready again.
    pub fn handle(&self) -> Arc<AsyncFd<OwnedFd>> {
        Arc::clone(&self.fd)
    }

    /// Takes what has happened; empty when nothing has. Blocking.
    ///
    /// # Errors
    ///
    /// When the kernel lost events. The tree is still usable.
    pub fn read(&mut self) -> Result<Vec<Change>, FileError> {
        let mut changes = Vec::new();
        let mut overflow = false;
        loop {
            let batch = self.take_batch()?;
            if batch.is_empty() {
                break;
            }
            for raw in batch {
                overflow |= raw.flags.contains(ReadFlags::QUEUE_OVERFLOW);
                self.apply(raw, &mut changes);
            }
        }
        if overflow {
            Err(super::lost())
        } else {
            Ok(changes)
        }
    }

    /// One kernel read's worth of events.
    fn take_batch(&mut self) -> Result<Vec<Raw>, FileError> {
        let mut batch = Vec::new();
        let mut reader = Reader::new(self.fd.get_ref(), &mut self.buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    batch.push(Raw {
                        watch: event.wd(),
                        flags: event.events(),
                        cookie: event.cookie(),
                        name: event
                            .file_name()
                            .map(|name| shown(OsStr::from_bytes(name.to_bytes())).into_owned()),
                    });
                    if reader.is_buffer_empty() {
                        return Ok(batch);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(batch),
                Err(error) => return Err(FileError::from_io("error watching", &error.into())),
            }
        }
    }

    fn apply(&mut self, raw: Raw, changes: &mut Vec<Change>) {
        // The kernel reports both halves of a move next to each other. If
        // something else comes first, the directory has left the tree.
        let stays_away = |leaving: &mut Leaving| {
            !raw.flags.contains(ReadFlags::MOVED_TO) || raw.cookie != leaving.cookie
        };
        if let Some(left) = self.leaving.take_if(stays_away) {
            self.unwatch(&left.path);
        }
        let is_directory = raw.flags.contains(ReadFlags::ISDIR);
        if raw.flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&raw.watch);
            return;
        }
        let Some(directory) = self.directories.get_mut(&raw.watch) else {
            return;
        };
        let Some(name) = raw.name else {
            // About a watched directory itself. Those below the root are told
            // by their parents.
            if directory.path.is_empty() {
                changes.extend(kind_of_self(raw.flags).map(|kind| change(".", kind)));
            }
            return;
        };
        let path = join(&directory.path, &name);
        let gone = raw
            .flags
            .intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        let came = raw
            .flags
            .intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let told = (gone || came) && directory.told.remove(&name);
        if !(told && came)
            && let Some(kind) = kind_of_child(raw.flags)
        {
            changes.push(change(&path, kind));
        }
        if is_directory && self.recursive {
            self.follow(&path, raw.flags, raw.cookie, told, changes);
        }
    }

    /// Keeps the watches in step with a directory that came, went or moved.
    fn follow(
        &mut self,
        path: &str,
        flags: ReadFlags,
        cookie: u32,
        told: bool,
        changes: &mut Vec<Change>,
    ) {
        if let Some(left) = self.leaving.take() {
            self.retarget(&left.path, path);
            return;
        }
        if flags.contains(ReadFlags::MOVED_FROM) {
            self.leaving = Some(Leaving {
                cookie,
                path: path.to_owned(),
            });
        } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && !told {
            // Failure: it is gone again, may not be read, or is one too many.
            // Its own creation was told; what is in it cannot be.
            if self.watch(path.to_owned()).is_ok() {
                let _ = self.watch_below(path, changes);
            }
        }
    }

    fn watch(&mut self, path: String) -> Result<(), FileError> {
        let absolute = join(&self.root, &path);
        if self.directories.len() >= MAX_DIRECTORIES {
            return Err(FileError::new(
                Kind::TooMany,
                format!(
                    "more than {MAX_DIRECTORIES} directories below {}",
                    self.root
                ),
            ));
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(self.fd.get_ref(), &*native(&absolute), flags)
            .map_err(|error| watch_error(&absolute, error))?;
        self.directories.insert(
            watch,
            Directory {
                path,
                told: HashSet::new(),
            },
        );
        Ok(())
    }

    /// Watches all directories below one that is watched. Everything found is
    /// added to `changes` as created. Links are not followed.
    fn watch_below(&mut self, path: &str, changes: &mut Vec<Change>) -> Result<(), FileError> {
        let mut pending = vec![path.to_owned()];
        while let Some(parent) = pending.pop() {
            let Ok(children) = std::fs::read_dir(native(&join(&self.root, &parent))) else {
                continue;
            };
            let mut names = HashSet::new();
            for child in children.flatten() {
                let name = shown(&child.file_name()).into_owned();
                let below = join(&parent, &name);
                changes.push(change(&below, EventType::EVENT_TYPE_CREATE));
                let is_directory = child.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory {
                    match self.watch(below.clone()) {
                        Ok(()) => pending.push(below),
                        Err(error) if error.kind == Kind::TooMany => return Err(error),
                        Err(_) => {}
                    }
                }
                names.insert(name);
            }
            // Only a directory that came while watching has reports to come.
            if !path.is_empty()
                && let Some(directory) = self
                    .directories
                    .values_mut()
                    .find(|directory| directory.path == parent)
            {
                directory.told = names;
            }
        }
        Ok(())
    }

    fn retarget(&mut self, from: &str, to: &str) {
        for directory in self.directories.values_mut() {
            if let Some(rest) = below(&directory.path, from) {
                directory.path = format!("{to}{rest}");
            }
        }
    }

    fn unwatch(&mut self, path: &str) {
        let gone: Vec<i32> = self
            .directories
            .iter()
            .filter(|(_, directory)| below(&directory.path, path).is_some())
            .map(|(watch, _)| *watch)
            .collect();
        for watch in gone {
            self.directories.remove(&watch);
            // Fails when the directory was removed meanwhile.
            let _ = inotify::remove_watch(self.fd.get_ref(), watch);
        }
    }
}

fn new_buffer() -> Box<[MaybeUninit<u8>]> {
    vec![MaybeUninit::uninit(); BUFFER_BYTES].into_boxed_slice()
}

/// What follows `prefix` in `path`, if `path` is that or lies below it.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn change(name: &str, kind: EventType) -> Change {
    Change {
        name: name.to_owned(),
        kind,
    }
}

fn kind_of_child(flags: ReadFlags) -> Option<EventType> {
    let kinds = [
        (
            ReadFlags::CREATE | ReadFlags::MOVED_TO,
            EventType::EVENT_TYPE_CREATE,
        ),
        (ReadFlags::MODIFY, EventType::EVENT_TYPE_WRITE),
        (ReadFlags::DELETE, EventType::EVENT_TYPE_REMOVE),
        (ReadFlags::MOVED_FROM, EventType::EVENT_TYPE_RENAME),
        (ReadFlags::ATTRIB, EventType::EVENT_TYPE_CHMOD),
    ];
    kinds
        .into_iter()
        .find(|(bits, _)| flags.intersects(*bits))
        .map(|(_, kind)| kind)
}

fn kind_of_self(flags: ReadFlags) -> Option<EventType> {
    let kinds = [
        (ReadFlags::DELETE_SELF, EventType::EVENT_TYPE_REMOVE),
        (ReadFlags::MOVE_SELF, EventType::EVENT_TYPE_RENAME),
        (ReadFlags::ATTRIB, EventType::EVENT_TYPE_CHMOD),
    ];
    kinds
        .into_iter()
        .find(|(bits, _)| flags.intersects(*bits))
        .map(|(_, kind)| kind)
}

fn is_network_mount(path: &str) -> bool {
    // The type is a small number in a wide field.
    rustix::fs::statfs(&*native(path))
        .is_ok_and(|statfs| NETWORK_FILE_SYSTEMS.contains(&(statfs.f_type as u32)))
}

fn watch_error(path: &str, error: Errno) -> FileError {
    if error == Errno::NOSPC || error == Errno::MFILE {
        return FileError::new(Kind::TooMany, "the kernel's limit of watches is reached");
    }
    FileError::from_io(&format!("error watching '{path}'"), &error.into())
}

#[cfg(test)]
mod tests;
