//! One QEMU virtual machine.
//!
//! Holds no state of its own about the guest: whether it runs is asked of QEMU each time,
//! so an adopted VM needs no special case. Commands of several callers are taken by QEMU
//! one after the other; a caller that needs two in a row, such as the node's driver, is
//! the VM's only owner.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::launch::Running;
use crate::dirty::ProcessMemory;
use crate::launch::remove;
use crate::{
    DirtyMemory, Error, ExitReason, Machine, MachineRecord, MemoryMapping, MemoryTarget, SaveTarget,
};

/// How long a command may take. Pausing drains the disk, which may wait for a disk server
/// that is just starting again.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct QemuMachine {
    running: Running,
}

impl QemuMachine {
    pub(super) fn new(running: Running) -> Self {
        Self { running }
    }

    async fn execute(&self, command: &'static str, arguments: Value) -> Result<Value, Error> {
        let pending = self.running.qmp.send(command, arguments).await;
        self.running.answer(command, pending, COMMAND_LIMIT).await
    }

    async fn require_paused(&self) -> Result<(), Error> {
        let status = self.execute("query-status", json!(null)).await?;
        match status["running"].as_bool() {
            Some(false) => Ok(()),
            Some(true) => Err(Error::NotPaused),
            None => Err(Error::Protocol("query-status without an answer".to_owned())),
        }
    }

    fn require_private(&self) -> Result<(), Error> {
        match self.running.vm.record.memory_mapping {
            MemoryMapping::Private => Ok(()),
            MemoryMapping::Shared | MemoryMapping::Own => Err(Error::Unsupported(
                "the memory file of a booted VM is its memory",
            )),
        }
    }

    fn require_shared(&self) -> Result<(), Error> {
        match self.running.vm.record.memory_mapping {
            MemoryMapping::Shared => Ok(()),
            MemoryMapping::Private | MemoryMapping::Own => Err(Error::Unsupported(
                "a restored VM is saved as a difference to its memory image",
            )),
        }
    }

    async fn find_dirty(&self) -> Result<ProcessMemory, Error> {
        let record = self.running.vm.record.clone();
        tokio::task::spawn_blocking(move || {
            let image = &record.memory_file;
            let overlay = record.memory_overlay_files.iter();
            let files: Vec<&Path> = overlay.chain([image]).map(PathBuf::as_path).collect();
            ProcessMemory::find(record.pid, &files, record.shape.memory_bytes)
                .map_err(Error::io("search memory mapped from", image))
        })
        .await
        .map_err(|error| Error::Protocol(format!("the search was interrupted: {error}")))?
    }

    /// Has QEMU write its device state to a descriptor that it is handed for this.
    async fn save_to(&self, file: OwnedFd) -> Result<(), Error> {
        let pending = self.running.qmp.send_with("add-fd", json!({}), file).await;
        let added = self
            .running
            .answer("add-fd", pending, COMMAND_LIMIT)
            .await?;
        let set = added["fdset-id"]
            .as_u64()
            .ok_or_else(|| Error::Protocol("add-fd without a set".to_owned()))?;
        let target = json!({ "filename": format!("/dev/fdset/{set}"), "live": false });
        let saved = self.execute("xen-save-devices-state", target).await;
        let removed = self.execute("remove-fd", json!({ "fdset-id": set })).await;
        saved.and(removed).map(drop)
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn pid(&self) -> u32 {
        self.running.vm.process.pid()
    }

    fn engine_version(&self) -> String {
        let greeted = self.running.qmp.version();
        greeted.unwrap_or("unknown").to_owned()
    }

    fn record(&self) -> MachineRecord {
        self.running.vm.record.clone()
    }

    async fn pause(&self) -> Result<(), Error> {
        self.execute("stop", json!(null)).await.map(drop)
    }

    async fn resume(&self) -> Result<(), Error> {
        self.execute("cont", json!(null)).await.map(drop)
    }

    async fn save(&self, target: SaveTarget) -> Result<(), Error> {
        // The memory needs no saving: it is the file that it is mapped to, or is read from
        // the process afterwards.
        match target.memory {
            MemoryTarget::Image => self.require_shared()?,
            MemoryTarget::Difference => self.require_private()?,
        }
        self.require_paused().await?;
        let path = target.device_state;
        let file = create(&path)?;
        let kept = file
            .try_clone()
            .map_err(Error::io("duplicate the descriptor of", &path))?;
        let saved = self.save_to(file.into()).await;
        if saved.is_err() {
            remove(&path);
            return saved;
        }
        // QEMU reports a short write only in part: an empty state is no state.
        let length = kept.metadata().map_err(Error::io("look at", &path))?.len();
        if length == 0 {
            remove(&path);
            return Err(Error::Protocol(
                "QEMU wrote an empty device state".to_owned(),
            ));
        }
        Ok(())
    }

    async fn dirty_memory(&self) -> Result<Box<dyn DirtyMemory>, Error> {
        self.require_private()?;
        self.require_paused().await?;
        Ok(Box::new(self.find_dirty().await?))
    }

    async fn written_bytes(&self) -> Result<u64, Error> {
        self.require_private()?;
        Ok(self.find_dirty().await?.len())
    }

    async fn stop(&self) -> Result<(), Error> {
        self.running.vm.stop().await
    }

    async fn exited(&self) -> ExitReason {
        self.running.vm.process.exited().await
    }
}

fn create(path: &Path) -> Result<std::fs::File, Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create device state", path))
}
