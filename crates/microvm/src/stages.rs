//! The stages of a VM, each made from the one before.

use crate::{
    Disk, Error, Journal, Kernel, Lifetime, NotReleased, Owner, SavedVm, ServedDisk, console,
    disk::Client,
    host_device::HostDevice,
    limits::{self, BootLimits},
    memory, names,
    parts::Parts,
};
use hearth_agent_client::{Agent, Init};
use hearth_machine::{Engine, Machine, MachineRecord, MemoryTarget, SaveTarget};
use hearth_network::{Slot, SlotPool};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A stage was not reached. What it had begun is undone.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// Where it started from: to be released, or used again.
    pub held: SlotHeld,
}

/// A network slot, and names on the host that go with it.
pub struct SlotHeld(pub(crate) Parts);

impl SlotHeld {
    /// Takes a slot for the VM of `owner`, whose sockets and console are to be in
    /// `run_dir`.
    ///
    /// # Errors
    /// When no slot can be had.
    pub async fn acquire(
        slots: &SlotPool,
        owner: &Owner,
        run_dir: PathBuf,
        lifetime: Lifetime,
    ) -> Result<Self, Error> {
        let slot = slots.acquire().await.map_err(Error::Slot)?;
        Ok(Self(Parts::new(slot, slots, owner, run_dir, lifetime)))
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        self.0.slot()
    }

    /// Makes the run directory and serves the disk in it.
    ///
    /// # Errors
    /// When the journal refuses, or the disk cannot be opened or served.
    pub async fn serve(
        mut self,
        disk: &Disk,
        journal: &mut dyn Journal,
    ) -> Result<DiskServed, Box<Failed>> {
        match self.try_serve(disk, journal).await {
            Ok(()) => Ok(DiskServed(self.0)),
            Err(error) => Err(failed(self.0, error).await),
        }
    }

    async fn try_serve(&mut self, disk: &Disk, journal: &mut dyn Journal) -> Result<(), Error> {
        let parts = &mut self.0;
        let told = journal.slot_held(parts.slot()).await;
        told.map_err(Error::Journal)?;
        parts.clear_cgroup()?;
        parts.make_run_dir()?;
        parts.disk = Some(serve(parts, disk).await?);
        journal.disk_served().await.map_err(Error::Journal)
    }

    /// The writable layer that was made for the VM that was powered off last, unless
    /// it was there before.
    pub(crate) fn take_spent_layer(&mut self) -> Option<PathBuf> {
        self.0.spent_layer.take()
    }

    /// Gives back everything.
    ///
    /// # Errors
    /// When something of an earlier VM runs on, or cannot be removed.
    pub async fn release(self) -> Result<(), NotReleased> {
        self.0.release().await
    }
}

impl std::fmt::Debug for SlotHeld {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SlotHeld({})", self.0.slot().index)
    }
}

/// A disk that is served, in a slot.
pub struct DiskServed(Parts);

impl DiskServed {
    /// Boots a kernel. The guest has only begun to start.
    ///
    /// # Errors
    /// When the engine or the journal refuses.
    pub async fn boot(
        mut self,
        engine: &Arc<dyn Engine>,
        guest: &Kernel,
        journal: &mut dyn Journal,
    ) -> Result<Launched, Box<Failed>> {
        if let Err(error) = Box::pin(self.0.attach_disk(&engine.capabilities())).await {
            return Err(failed(self.0, error).await);
        }
        let (engine, spec) = (Arc::clone(engine), self.0.boot_spec(guest));
        let started = self.0.start(async move { engine.boot(spec).await }).await;
        self.launched(started.map_err(Error::Boot), journal).await
    }

    /// Restores a saved VM, which runs.
    ///
    /// # Errors
    /// When the engine or the journal refuses.
    pub async fn restore(
        mut self,
        engine: &Arc<dyn Engine>,
        saved: &SavedVm,
        journal: &mut dyn Journal,
    ) -> Result<Launched, Box<Failed>> {
        // Boxed: a start has many stages, and its future is part of many others.
        let saved = match Box::pin(self.0.fit(&engine.capabilities(), saved)).await {
            Ok(saved) => saved,
            Err(error) => return Err(failed(self.0, error).await),
        };
        let (engine, spec) = (Arc::clone(engine), self.0.restore_spec(&saved));
        let started = self
            .0
            .start(async move { engine.restore(spec).await })
            .await;
        self.launched(started.map_err(Error::Restore), journal)
            .await
    }

    async fn launched(
        self,
        started: Result<MachineRecord, Error>,
        journal: &mut dyn Journal,
    ) -> Result<Launched, Box<Failed>> {
        let told = match started {
            Ok(record) => journal.launched(&record).await.map_err(Error::Journal),
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => Ok(Launched(self.0)),
            Err(error) => Err(failed(self.0, error).await),
        }
    }
}

/// A VM process, running or paused.
pub struct Launched(Parts);

impl Launched {
    /// Takes over a VM that an earlier daemon started, in the slot that it had. Its disk
    /// is to be served again.
    #[must_use]
    pub fn adopt(
        machine: Box<dyn Machine>,
        slot: Slot,
        slots: &SlotPool,
        owner: &Owner,
        run_dir: PathBuf,
    ) -> Self {
        let mut parts = Parts::new(slot, slots, owner, run_dir, Lifetime::Journaled);
        parts.host_device = HostDevice::find(&parts.cgroup);
        parts.composed = memory::composed_of(&machine.record());
        parts.machine = Some(machine);
        Self(parts)
    }

    /// The VM process.
    #[must_use]
    pub fn machine(&self) -> &dyn Machine {
        self.0
            .machine
            .as_deref()
            .expect("a launched VM has its machine until it is powered off, which consumes it")
    }

    /// The slot that it is in.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        self.0.slot()
    }

    /// Where the host reaches the guest.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.slot().host_address
    }

    /// Its disk; absent when a disk could not be served again; the guest's requests wait.
    #[must_use]
    pub fn disk(&self) -> Option<&ServedDisk> {
        self.0.disk.as_ref()
    }

    /// As [`Self::disk`], to take sealed layers off it.
    #[must_use]
    pub fn disk_mut(&mut self) -> Option<&mut ServedDisk> {
        self.0.disk.as_mut()
    }

    /// Serves the disk anew, while the VM goes on: its requests wait meanwhile.
    ///
    /// # Errors
    /// When the disk cannot be opened or served; it is then absent.
    pub async fn serve_again(&mut self, disk: &Disk) -> Result<(), Error> {
        if let Some(former) = self.0.disk.take() {
            let _ = former.close().await;
        }
        let served = serve(&self.0, disk).await?;
        let served = self.0.disk.insert(served);
        if let Some(device) = &self.0.host_device {
            Box::pin(device.reconnect(&self.0.run_dir, served)).await?;
        }
        Ok(())
    }

    /// Has all that the guest has written to its disk so far reach [`ServedDisk::device`]:
    /// where the disk is a block device of the host, the kernel may hold some of it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn settle_disk(&self) -> Result<(), Error> {
        match &self.0.host_device {
            Some(device) if self.0.disk.is_some() => device.settle().await,
            _ => Ok(()),
        }
    }

    /// Waits until the agent of a guest that boots says on the console that it listens,
    /// and asks it once over the network.
    ///
    /// # Errors
    /// When it does not come up in time, its console stops, or the VM ends. What was
    /// held is then only the slot.
    pub async fn booted(self, limits: BootLimits) -> Result<AgentReady, Box<Failed>> {
        let agent = Agent::new(self.address());
        let console = self.0.run_dir.join(names::CONSOLE);
        let waiting = console::wait_for_agent(&console, &agent, limits);
        match self.unless_ended(waiting).await {
            Ok(()) => Ok(AgentReady {
                vm: self,
                agent,
                version: String::new(),
            }),
            Err(error) => Err(failed(self.0, error).await),
        }
    }

    /// Hands the agent its settings and returns its version, unless the VM ends before.
    ///
    /// # Errors
    /// When the agent refuses or does not answer within `limit`, or the VM ends.
    pub async fn init(
        &self,
        agent: &Agent,
        settings: &Init<'_>,
        limit: Duration,
    ) -> Result<String, Error> {
        let answer = async { agent.init(settings, limit).await.map_err(Error::Agent) };
        self.unless_ended(answer).await
    }

    async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            done = work => done,
            why = self.machine().exited() => Err(Error::Ended {
                why: why.to_string(),
                console: console::tail_of(&self.0.run_dir.join(names::CONSOLE)),
            }),
        }
    }

    /// The last lines of the console of a guest that was booted.
    #[must_use]
    pub fn console_tail(&self) -> String {
        console::tail_of(&self.0.run_dir.join(names::CONSOLE))
    }

    /// Stops the clock of a guest that was booted and writes its devices; its memory is
    /// in its memory file then.
    ///
    /// # Errors
    /// The engine's.
    pub async fn save(&self, device_state: &Path) -> Result<(), hearth_machine::Error> {
        let _unlimited = self.disk().map(|disk| disk.unlimited());
        let machine = self.machine();
        machine.pause().await?;
        let device_state = device_state.to_owned();
        let memory = MemoryTarget::Image;
        machine
            .save(SaveTarget {
                device_state,
                memory,
            })
            .await
    }

    /// Ends the VM, then the disk's server.
    pub async fn power_off(mut self) -> SlotHeld {
        self.0.power_off().await;
        SlotHeld(self.0)
    }

    /// Gives back everything, the VM first.
    ///
    /// # Errors
    /// As [`SlotHeld::release`].
    pub async fn release(self) -> Result<(), NotReleased> {
        self.0.release().await
    }

    /// Stops serving the disk, with all that was written to it, and leaves the VM
    /// alone, which goes on without this process.
    pub async fn detach(mut self) {
        self.0.forget();
        let Some(disk) = self.0.disk.take() else {
            return;
        };
        let device = std::sync::Arc::clone(&disk.device);
        let _ = disk.close().await;
        let flushed = tokio::task::spawn_blocking(move || device.flush()).await;
        if let Ok(Err(error)) = flushed {
            tracing::error!(%error, "flush disk failed");
        }
    }
}

/// A VM whose agent listens.
pub struct AgentReady {
    /// The VM.
    pub vm: Launched,
    /// Its agent, as the host reaches it.
    pub agent: Agent,
    /// The agent's own; empty until it has taken settings.
    pub version: String,
}

impl AgentReady {
    /// Hands the agent its settings.
    ///
    /// # Errors
    /// As [`Launched::init`]. What was held is then only the slot.
    pub async fn init(mut self, settings: &Init<'_>) -> Result<Self, Box<Failed>> {
        let asking = self.vm.init(&self.agent, settings, limits::CALL_LIMIT);
        match asking.await {
            Ok(version) => {
                self.version = version;
                Ok(self)
            }
            Err(error) => Err(failed(self.vm.0, error).await),
        }
    }
}

async fn serve(parts: &Parts, disk: &Disk) -> Result<ServedDisk, Error> {
    let client = Client {
        run_dir: &parts.run_dir,
        uid: parts.slot().uid,
        cgroup: &parts.cgroup,
    };
    ServedDisk::serve(disk, client).await
}

async fn failed(mut parts: Parts, error: Error) -> Box<Failed> {
    parts.power_off().await;
    let held = SlotHeld(parts);
    Box::new(Failed { error, held })
}
