//! One Firecracker virtual machine.
//!
//! Whether the guest runs is asked of Firecracker each time, so an adopted VM needs no
//! special case but one: what it wrote is handed out only after a save by this daemon.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::api::{SnapshotCreate, SnapshotType, State};
use super::dirty::ScratchMemory;
use super::jail::{self, OWN_DIR};
use super::launch::{Running, descriptor_path, own_dir};
use crate::dirty::ProcessMemory;
use crate::launch::remove;
use crate::{
    DirtyMemory, Error, ExitReason, Machine, MachineRecord, MemoryMapping, MemoryTarget, SaveTarget,
};

/// How long a command may take. Pausing waits for the disk, whose server may just be
/// starting again.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long a snapshot may take: it writes memory to a disk.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// The device state that Firecracker writes, in the VM's own directory.
const STATE_OUT: &str = "state.out";
/// A longer device state is none of Firecracker's, in bytes.
const STATE_LIMIT: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct FirecrackerMachine {
    running: Running,
    version: String,
    /// Whether what the guest wrote is in the scratch file, and it still stands still.
    saved: AtomicBool,
}

impl FirecrackerMachine {
    pub(super) fn new(running: Running, version: String) -> Self {
        Self {
            running,
            version,
            saved: AtomicBool::new(false),
        }
    }

    fn own_record(&self) -> &MachineRecord {
        &self.running.vm.record
    }

    async fn set_paused(&self, paused: bool) -> Result<(), Error> {
        let done = self.running.api.set_paused(paused);
        let command = if paused { "pause" } else { "resume" };
        self.running.answer(command, COMMAND_LIMIT, done).await
    }

    async fn require_paused(&self) -> Result<(), Error> {
        match self.running.instance(COMMAND_LIMIT).await?.state {
            State::Paused => Ok(()),
            State::Running | State::NotStarted => Err(Error::NotPaused),
        }
    }

    /// The file for the memory, and how much of it is written there.
    fn memory_target(&self, target: &MemoryTarget) -> Result<(&Path, SnapshotType), Error> {
        let record = self.own_record();
        match (target, record.memory_mapping, &record.memory_scratch) {
            (MemoryTarget::Image, MemoryMapping::Own, _) => {
                Ok((&record.memory_file, SnapshotType::Full))
            }
            (MemoryTarget::Difference, MemoryMapping::Private, Some(scratch)) => {
                Ok((scratch, SnapshotType::Diff))
            }
            (MemoryTarget::Image, ..) => Err(Error::Unsupported(
                "a restored VM is saved as a difference to its memory image",
            )),
            (MemoryTarget::Difference, ..) => Err(Error::Unsupported(
                "the memory file of a booted VM is its memory",
            )),
        }
    }

    async fn save_to(&self, state: &mut File, memory: &MemoryTarget) -> Result<(), Error> {
        let (file, snapshot_type) = self.memory_target(memory)?;
        let number = descriptor_of(self.own_record().pid, file)
            .map_err(Error::io("find the descriptor of", file))?;
        let path = format!("{OWN_DIR}/{STATE_OUT}");
        let snapshot = SnapshotCreate {
            snapshot_type,
            snapshot_path: &path,
            mem_file_path: &descriptor_path(number),
        };
        let done = self.running.api.snapshot_create(&snapshot);
        self.running
            .answer("PUT /snapshot/create", SNAPSHOT_LIMIT, done)
            .await?;
        let path = own_dir(self.own_record()).join(STATE_OUT);
        let taken = take_state(&path, state);
        remove(&path);
        taken.map_err(Error::io("take the device state from", &path))
    }
}

/// Copies what the VM's process left at `path`, which is no file for sure.
fn take_state(path: &Path, to: &mut File) -> io::Result<()> {
    let from = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = from.metadata()?;
    let invalid = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if !metadata.is_file() || metadata.len() == 0 {
        return invalid("no device state");
    }
    if io::copy(&mut from.take(STATE_LIMIT), to)? == STATE_LIMIT {
        return invalid("too long for a device state");
    }
    Ok(())
}

/// The number under which the process has `file` open.
fn descriptor_of(pid: u32, file: &Path) -> io::Result<String> {
    let wanted = fs::metadata(file)?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let same = fs::metadata(entry.path())
            .is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()));
        if same && let Ok(number) = entry.file_name().into_string() {
            return Ok(number);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn pid(&self) -> u32 {
        self.running.vm.process.pid()
    }

    fn engine_version(&self) -> String {
        self.version.clone()
    }

    fn record(&self) -> MachineRecord {
        self.own_record().clone()
    }

    async fn pause(&self) -> Result<(), Error> {
        self.set_paused(true).await
    }

    async fn resume(&self) -> Result<(), Error> {
        self.saved.store(false, Ordering::SeqCst);
        self.set_paused(false).await
    }

    async fn save(&self, target: SaveTarget) -> Result<(), Error> {
        self.memory_target(&target.memory)?;
        self.require_paused().await?;
        let path = target.device_state;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("create device state", &path))?;
        let saved = self.save_to(&mut file, &target.memory).await;
        match saved {
            Ok(()) => self.saved.store(true, Ordering::SeqCst),
            Err(_) => remove(&path),
        }
        saved
    }

    async fn dirty_memory(&self) -> Result<Box<dyn DirtyMemory>, Error> {
        let (scratch, _) = self.memory_target(&MemoryTarget::Difference)?;
        self.require_paused().await?;
        if !self.saved.load(Ordering::SeqCst) {
            return Err(Error::Unsupported(
                "what the guest wrote is known after a save only",
            ));
        }
        let (scratch, image) = (scratch.to_owned(), self.own_record().memory_file.clone());
        let length = self.own_record().shape.memory_bytes;
        let found = tokio::task::spawn_blocking(move || {
            ScratchMemory::open(&scratch, &image, length)
                .map_err(Error::io("read what was written from", &scratch))
        });
        let found = found
            .await
            .map_err(|error| Error::Protocol(format!("the search was interrupted: {error}")))??;
        Ok(Box::new(found))
    }

    async fn written_bytes(&self) -> Result<u64, Error> {
        self.memory_target(&MemoryTarget::Difference)?;
        let record = self.record();
        let found = tokio::task::spawn_blocking(move || {
            let image: &PathBuf = &record.memory_file;
            ProcessMemory::find(record.pid, &[image], record.shape.memory_bytes)
                .map_err(Error::io("search memory mapped from", image))
        });
        let found = found
            .await
            .map_err(|error| Error::Protocol(format!("the search was interrupted: {error}")))??;
        Ok(found.len())
    }

    async fn stop(&self) -> Result<(), Error> {
        let stopped = self.running.vm.stop().await;
        if let Err(Error::Stuck { .. }) = stopped {
            return stopped;
        }
        jail::remove_dir(&own_dir(self.own_record()));
        if let Some(scratch) = &self.own_record().memory_scratch {
            remove(scratch);
        }
        stopped
    }

    async fn exited(&self) -> ExitReason {
        self.running.vm.process.exited().await
    }
}
