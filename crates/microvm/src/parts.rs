//! What a VM holds of the host, and the order in which it goes: the VM, the disk's
//! server, the control group, the run directory, the network slot. The stages say
//! which of it is there.
//!
//! An engine's start goes on when nobody waits for it any more, and ends what it made, by
//! its names. So whatever is given up while a VM starts waits for that start before it
//! releases anything: a slot's next owner, which has the same names, must not meet it.

use crate::{
    Error, NotReleased, Owner, SavedVm, disk::ServedDisk, host_device::HostDevice, memory,
};
use hearth_machine::{Capabilities, DiskKind, Machine, MachineRecord, MemorySource};
use hearth_network::{Slot, SlotPool};
use hearth_util::chain;
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// What becomes of a VM whose stage is dropped.
#[derive(Debug, Clone)]
pub enum Lifetime {
    /// It stays: a journal leads the next daemon to it.
    Journaled,
    /// It ends at once, and a task of the tracker gives back what it held.
    Scoped(TaskTracker),
}

type Started = Result<Box<dyn Machine>, hearth_machine::Error>;

pub(crate) struct Parts {
    pub(crate) machine: Option<Box<dyn Machine>>,
    /// The engine's start, as long as it is not over.
    starting: Option<JoinHandle<Started>>,
    pub(crate) disk: Option<ServedDisk>,
    /// The disk as a block device of the host, where the engine wants one. Given back after
    /// the VM has ended.
    pub(crate) host_device: Option<HostDevice>,
    /// Where that is; not known of one that an earlier daemon attached.
    pub(crate) device_path: Option<PathBuf>,
    /// A memory that was put together for this VM.
    pub(crate) composed: Option<PathBuf>,
    /// Absent only when it has been released.
    slot: Option<Slot>,
    /// Directory of sockets and console.
    pub(crate) run_dir: PathBuf,
    owner: Owner,
    pub(crate) cgroup: String,
    slots: SlotPool,
    lifetime: Lifetime,
    /// A writable layer that was made for a VM that has been powered off.
    pub(crate) spent_layer: Option<PathBuf>,
}

impl Parts {
    pub(crate) fn new(
        slot: Slot,
        slots: &SlotPool,
        owner: &Owner,
        run_dir: PathBuf,
        lifetime: Lifetime,
    ) -> Self {
        Self {
            machine: None,
            starting: None,
            disk: None,
            host_device: None,
            device_path: None,
            composed: None,
            owner: owner.clone(),
            cgroup: owner.cgroup(&slot),
            slot: Some(slot),
            run_dir,
            slots: slots.clone(),
            lifetime,
            spent_layer: None,
        }
    }

    pub(crate) fn slot(&self) -> &Slot {
        self.slot
            .as_ref()
            .expect("a stage holds its slot, and releasing it consumes the stage")
    }

    /// Ends what is left in the control group where it is the slot's, and not one VM's:
    /// it would pass for this VM.
    pub(crate) fn clear_cgroup(&self) -> Result<(), Error> {
        match self.owner {
            Owner::Build => hearth_confine::remove_cgroup(&self.cgroup).map_err(Error::Leftover),
            Owner::Sandbox(_) => Ok(()),
        }
    }

    /// Makes the run directory, empty, and the slot's own.
    pub(crate) fn make_run_dir(&self) -> Result<(), Error> {
        let path = &self.run_dir;
        remove_dir(path).map_err(Error::io("remove", path))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .map_err(Error::io("make", path))?;
        let uid = self.slot().uid;
        chown(path, Some(uid), Some(uid)).map_err(Error::io("give away", path))
    }

    /// Makes the disk that is served what the engine opens.
    pub(crate) async fn attach_disk(&mut self, engine: &Capabilities) -> Result<(), Error> {
        if engine.disk != DiskKind::BlockDevice {
            return Ok(());
        }
        // Known before it is there: whatever comes of this, it is given back.
        let device = HostDevice::of(&self.cgroup);
        self.host_device = Some(device.clone());
        let path = device.attach(&self.run_dir, self.slot().uid).await?;
        self.device_path = Some(path);
        Ok(())
    }

    /// As [`Self::attach_disk`], and returns the saved VM with its memory as the engine maps
    /// it.
    pub(crate) async fn fit(
        &mut self,
        engine: &Capabilities,
        saved: &SavedVm,
    ) -> Result<SavedVm, Error> {
        self.attach_disk(engine).await?;
        let mut saved = saved.clone();
        if !engine.memory_pieces && matches!(saved.memory, MemorySource::Pieces { .. }) {
            let image = memory::composed_image(&saved.scratch);
            self.composed = Some(image.clone());
            saved.memory = memory::compose(&saved.memory, image).await?;
        }
        Ok(saved)
    }

    /// Has an engine start the VM. The start goes on when this future is dropped, and is
    /// then waited for before anything is released.
    pub(crate) async fn start(
        &mut self,
        start: impl Future<Output = Started> + Send + 'static,
    ) -> Result<MachineRecord, hearth_machine::Error> {
        self.starting = Some(tokio::spawn(start));
        self.started().await?;
        let machine = self.machine.as_deref();
        let record = machine.map(Machine::record);
        record.ok_or_else(|| {
            hearth_machine::Error::Protocol("the task that starts the VM ended early".to_owned())
        })
    }

    /// Waits until no start is under way.
    async fn started(&mut self) -> Result<(), hearth_machine::Error> {
        let Some(starting) = &mut self.starting else {
            return Ok(());
        };
        let started = starting.await;
        self.starting = None;
        // It is not aborted, and a panic in it has been told by the runtime.
        if let Ok(started) = started {
            self.machine = Some(started?);
        }
        Ok(())
    }

    /// Ends the VM and then the disk's server, whichever there are.
    pub(crate) async fn power_off(&mut self) {
        if let Err(error) = self.started().await {
            tracing::debug!(error = %chain(&error), "VM that nobody waits for did not start");
        }
        if let Some(machine) = self.machine.take()
            && let Err(error) = machine.stop().await
        {
            let pid = machine.pid();
            tracing::error!(pid, error = %chain(&error), "stop VM failed");
        }
        if matches!(self.lifetime, Lifetime::Scoped(_)) {
            // One that was starting when its owner was dropped.
            end_leftovers(&self.run_dir);
        }
        self.device_path = None;
        if let Some(device) = self.host_device.take() {
            device.release(self.disk.is_some()).await;
        }
        if let Some(composed) = self.composed.take() {
            remove_file(&composed);
        }
        if let Some(disk) = self.disk.take() {
            self.spent_layer = disk.close().await;
        }
    }

    /// Gives back everything.
    pub(crate) async fn release(mut self) -> Result<(), NotReleased> {
        self.power_off().await;
        if let Err(source) = hearth_confine::remove_cgroup(&self.cgroup) {
            // Nobody else gets its network and its user.
            let slot = self.slot().index;
            tracing::error!(slot, cgroup = self.cgroup, error = %chain(&source), "release network slot failed");
            return Err(NotReleased::Occupied {
                held: Box::new(crate::SlotHeld(self)),
                source,
            });
        }
        let removed = remove_dir(&self.run_dir).map_err(NotReleased::RunDir);
        let released = match self.slot.take() {
            Some(slot) => self.slots.release(slot).await.map_err(NotReleased::Slot),
            None => Ok(()),
        };
        released.and(removed)
    }

    /// Leaves a VM alone that goes on without this process.
    pub(crate) fn forget(&mut self) {
        self.lifetime = Lifetime::Journaled;
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Lifetime::Scoped(tasks) = &self.lifetime else {
            if let Some(starting) = self.starting.take() {
                end_started(starting);
            }
            return;
        };
        let Some(slot) = self.slot.take() else {
            return;
        };
        let tasks = tasks.clone();
        let machine = self.machine.take();
        let starting = self.starting.take();
        if let Some(machine) = &machine {
            // At once: the process may end before a task gets its turn.
            end(machine.pid());
        }
        let rest = Self {
            machine,
            starting,
            disk: self.disk.take(),
            host_device: self.host_device.take(),
            device_path: None,
            composed: self.composed.take(),
            slot: Some(slot),
            run_dir: self.run_dir.clone(),
            owner: self.owner.clone(),
            cgroup: self.cgroup.clone(),
            slots: self.slots.clone(),
            // What is not released now is cleaned at the next start.
            lifetime: Lifetime::Journaled,
            spent_layer: None,
        };
        tasks.spawn(async move {
            end_leftovers(&rest.run_dir);
            if let Err(error) = rest.release().await {
                tracing::error!(error = %chain(&error), "release VM failed");
            }
        });
    }
}

/// Ends a VM that nobody took, as soon as it is there.
fn end_started(starting: JoinHandle<Started>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        if let Ok(Ok(machine)) = starting.await
            && let Err(error) = machine.stop().await
        {
            let pid = machine.pid();
            tracing::error!(pid, error = %chain(&error), "stop VM that nobody took failed");
        }
    });
}

/// Ends the VMs without a journal that a killed process left below a directory of run
/// directories, or in one: their command lines name it. Their network slots are cleaned
/// by the pool's own start.
pub fn end_leftovers(run_dir: &Path) {
    for pid in hearth_machine::processes::naming(&format!("{}/", run_dir.display())) {
        tracing::info!(pid, "end VM that was left over");
        end(pid);
    }
}

fn end(pid: u32) {
    if let Err(error) = hearth_machine::processes::end(pid) {
        tracing::warn!(pid, %error, "end VM process failed");
    }
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "remove a VM's memory failed");
        }
        _ => {}
    }
}
