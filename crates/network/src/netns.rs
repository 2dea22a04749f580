//! Named network namespaces, and the threads that enter them.
//!
//! A namespace is a property of a thread. A thread that has left the host's
//! namespace must never go back to a runtime's worker pool, where the next task
//! would silently run in the wrong network. So each job that changes namespaces
//! gets a thread of its own (`spawn`, [`run_in`]) that ends with the job.
//!
//! Names are bind mounts under `/run/netns`, the convention of `ip netns`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Where named namespaces live.
pub const NETNS_DIR: &str = "/run/netns";

/// Magic number of the kernel's namespace file system (`linux/magic.h`).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// The absent string arguments of `mount`.
const NONE: Option<&str> = None;

/// The path of the namespace called `name`.
#[must_use]
pub fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Runs `job` on a thread of its own and completes with what it returned.
/// Dropping the future does not stop the job: half a job is worse than a whole.
pub(crate) async fn spawn<T: Send + 'static>(
    name: &str,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody waiting any more is fine: the job's effect stands.
            let _ = sender.send(job());
        })
        .map_err(Error::io("start a network worker thread"))?;
    receiver.await.map_err(|_| Error::WorkerDied)?
}

/// Runs `job` on a new thread inside the namespace at `path`, and waits for it.
pub fn run_in<T: Send + 'static>(
    path: &Path,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let path = path.to_owned();
    run_on_thread(move || {
        let file = File::open(&path).map_err(Error::io(format!("open {}", path.display())))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(Error::errno(format!("enter {}", path.display())))?;
        Ok(job())
    })
}

/// Runs `job` on a new thread in a namespace that nobody else has and that
/// vanishes with the thread.
pub(crate) fn run_in_throwaway<T: Send + 'static>(
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    run_on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(Error::errno("make a network namespace"))?;
        job()
    })
}

/// Runs `job` on a new thread in the caller's namespace, and waits for it.
pub(crate) fn run_on_thread<T: Send + 'static>(
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("hearth-netns".to_owned())
        .spawn(move || {
            let _ = sender.send(job());
        })
        .map_err(Error::io("start a network worker thread"))?;
    receiver.recv().map_err(|_| Error::WorkerDied)?
}

/// Makes a namespace called `name` and runs `job` inside it, on a new thread. When
/// `job` fails the name stays; the caller removes it.
pub(crate) fn create<T: Send + 'static>(
    name: &str,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    ensure_directory()?;
    let path = path_of(name);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o000)
        .open(&path)
        .map_err(Error::io(format!("create {}", path.display())))?;
    let action = format!("make network namespace {name}");
    run_on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .and_then(|()| {
                mount(
                    Some("/proc/thread-self/ns/net"),
                    &path,
                    NONE,
                    MsFlags::MS_BIND,
                    NONE,
                )
            })
            .map_err(Error::errno(action))?;
        job()
    })
}

/// Removes the name. The namespace itself goes when its last process has gone.
/// No such name is success.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a plain file, left by a crash between creation and mount.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(errno) => return Err(Error::errno(format!("unmount {}", path.display()))(errno)),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Whether `path` is a namespace, and not an empty file left by a crash.
pub(crate) fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|info| info.filesystem_type() == NSFS_MAGIC)
}

/// All names in the namespace directory.
pub(crate) fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("list {NETNS_DIR}"))(error)),
    };
    entries
        .map(|entry| {
            let entry = entry.map_err(Error::io(format!("list {NETNS_DIR}")))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// Makes the directory a shared mount, as `ip netns` does, so that names made in
/// one mount namespace are seen, and can be removed, in the others.
fn ensure_directory() -> Result<()> {
    fs::create_dir_all(NETNS_DIR).map_err(Error::io(format!("create {NETNS_DIR}")))?;
    let share = || {
        mount(
            NONE,
            NETNS_DIR,
            NONE,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            NONE,
        )
    };
    match share() {
        Err(nix::Error::EINVAL) => {
            // Not a mount point yet: bind it onto itself first.
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NETNS_DIR), NETNS_DIR, NONE, bind, NONE)
                .and_then(|()| share())
                .map_err(Error::errno(format!("mount {NETNS_DIR}")))
        }
        other => other.map_err(Error::errno(format!("share {NETNS_DIR}"))),
    }
}
