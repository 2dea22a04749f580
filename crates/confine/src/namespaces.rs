//! Namespaces of the process's own: what it sees of the host's files, processes, IPC
//! objects, name and control groups.
//!
//! They are entered by a thread that is made for one start and ends with it
//! ([`start_in`]): namespaces, root and working directory belong to threads, and what the
//! thread forks inherits them. So the steps may allocate and report errors as any other
//! code, and the daemon's other threads stay where they are. The process is the first of
//! its PID namespace, and the daemon's child as it would be without one.
//!
//! The root is an empty file system in memory onto which the listed files and directories
//! are bound, read-only; the host's tree is detached. `/proc` is mounted by the process
//! itself (`child.rs`), because it shows the namespace of whoever mounts it, and shows
//! nothing beside processes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use crate::{Error, Placed};

/// Where the new root is put together: a directory that every host has, and in which
/// nothing lies that a VM process needs.
const STAGE: &str = "/sys";
/// The name of the host as the process sees it.
const HOST_NAME: &[u8] = b"vm";
/// The root holds directories and empty files to bind onto, and nothing else.
const ROOT_OPTIONS: &str = "mode=755,size=256k,nr_inodes=256";

/// Runs `start` in a thread that has namespaces of its own, in which of all files only
/// `visible` exist.
pub(crate) fn start_in<T: Send>(
    visible: &[PathBuf],
    placed: &[Placed],
    start: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("jail".to_owned())
            .spawn_scoped(scope, || {
                enter(visible, placed)?;
                start()
            })
            .map_err(|source| Error::Namespaces {
                step: "start a thread",
                source,
            })?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::Namespaces {
                step: "run the thread",
                source: io::Error::other("it panicked"),
            })
        })
    })
}

fn enter(visible: &[PathBuf], placed: &[Placed]) -> Result<(), Error> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    step("make namespaces", nix::sched::unshare(flags))?;
    // The thread has one of its own with its mounts: the root's directories are to be
    // readable for the VM's user, whatever the daemon was started with.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let named = rustix::system::sethostname(HOST_NAME);
    let named = named.map_err(|errno| nix::Error::from_raw(errno.raw_os_error()));
    step("name the host", named)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    step(
        "part from the host's mounts",
        mount(None, Path::new("/"), None, private, None),
    )?;
    let stage = Path::new(STAGE);
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step(
        "make the root",
        mount(
            Some("jail"),
            stage,
            Some("tmpfs"),
            plain,
            Some(ROOT_OPTIONS),
        ),
    )?;
    for path in visible {
        show(stage, path).map_err(|source| Error::Visible {
            path: path.clone(),
            source,
        })?;
    }
    for it in placed {
        place(stage, &it.from, &it.at, it.writable).map_err(|source| Error::Visible {
            path: it.from.clone(),
            source,
        })?;
    }
    let proc = fs::create_dir(stage.join("proc"));
    proc.map_err(|source| Error::Namespaces {
        step: "make /proc",
        source,
    })?;
    step("enter the root", nix::unistd::chdir(stage))?;
    step("change the root", nix::unistd::pivot_root(".", "."))?;
    // The host's root now lies over ours.
    step(
        "leave the host's root",
        nix::mount::umount2(".", MntFlags::MNT_DETACH),
    )?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | plain;
    step(
        "lock the root",
        mount(None, Path::new("/"), None, read_only, None),
    )
}

/// Binds `path` at the same place below `stage`, without what is mounted below it. What
/// does not exist stays away.
fn show(stage: &Path, path: &Path) -> io::Result<()> {
    match place(stage, path, path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Binds `path` as `at` below `stage`, without what is mounted below it.
fn place(stage: &Path, path: &Path, at: &Path, writable: bool) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    let relative = at
        .strip_prefix("/")
        .map_err(|_| io::Error::other("not an absolute path"))?;
    let target = stage.join(relative);
    if metadata.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        fs::create_dir_all(target.parent().unwrap_or(stage))?;
        File::create(&target)?;
    }
    let source = Some(path);
    nix::mount::mount(
        source,
        &target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID;
    if writable {
        flags |= MsFlags::MS_NOEXEC;
    } else {
        flags |= MsFlags::MS_RDONLY;
    }
    if metadata.is_dir() {
        flags |= MsFlags::MS_NODEV;
    }
    mount(None, &target, None, flags, None).map_err(io::Error::from)
}

fn mount(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> nix::Result<()> {
    nix::mount::mount(source, target, kind, flags, options)
}

fn step(step: &'static str, result: nix::Result<()>) -> Result<(), Error> {
    result.map_err(|errno| Error::Namespaces {
        step,
        source: errno.into(),
    })
}
