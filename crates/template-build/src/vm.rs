//! The microVM of a build: booted from a stack of disk layers by the host of all VMs,
//! and gone, with all that it took, however the build ends. A build that is given up
//! half-way leaves that to a task, which whoever gave it up can wait for.

use crate::{
    Part,
    log::{Level, Log},
    shared::Shared,
    vm_records::{Record, VmRecords},
};
use async_trait::async_trait;
use hearth_agent_client::{AgentClient, Init, Operation};
use hearth_block::Device;
use hearth_ids::BuildId;
use hearth_machine::{MachineRecord, VmShape};
use hearth_microvm::{
    AgentReady, Boot, BootLimits, Cause, Disk, Failed, Journal, Kernel, Lifetime, Owner, SlotHeld,
};
use hearth_network::Slot;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::task::TaskTracker;

/// How long the agent may take for a short answer, or to begin one about processes.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How long writing out the guest's caches and holding its disk still may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(300);
/// How long a file may take to be sent.
const SEND_LIMIT: Duration = Duration::from_secs(1800);

/// Why the VM is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    #[error("the build's VM did not come up")]
    Start(#[source] hearth_microvm::Error),
    #[error("give back what the build's VM held")]
    Release(#[from] hearth_microvm::NotReleased),
    #[error("seal the build's disk")]
    Disk(#[source] hearth_block::Error),
    #[error("use the build's disk")]
    DiskIo(#[from] hearth_block::IoError),
    #[error("run the build's VM")]
    Machine(#[from] hearth_machine::Error),
    #[error("ask the agent of the build's VM")]
    Agent(#[from] hearth_agent_client::Error),
    #[error("a worker task ended early")]
    Task(#[from] tokio::task::JoinError),
}

pub(crate) struct BootRequest<'a> {
    pub(crate) build: BuildId,
    pub(crate) disk: Disk,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    /// The guest's memory; is made.
    pub(crate) memory_file: PathBuf,
    pub(crate) init: Init<'a>,
    /// Where the author reads of a boot that is tried again.
    pub(crate) log: &'a Log,
    pub(crate) part: Part,
}

/// Builds' VMs do not outlive the daemon, unless it is killed: the next one ends them by
/// what is written down here.
struct BuildJournal<'a> {
    build: BuildId,
    records: &'a VmRecords,
    record: Option<Record>,
    log: &'a Log,
    part: Part,
}

#[async_trait]
impl Journal for BuildJournal<'_> {
    async fn slot_held(&mut self, slot: &Slot) -> Result<(), Cause> {
        let record = self.record.insert(Record::new(self.build, slot));
        Ok(self.records.write(record)?)
    }

    async fn launched(&mut self, machine: &MachineRecord) -> Result<(), Cause> {
        if let Some(record) = &self.record {
            self.records.write(&record.clone().launched(machine))?;
        }
        Ok(())
    }

    fn boots_again(&mut self, failed: &hearth_microvm::Error) {
        tracing::warn!(build = %self.build, error = %failed, "boot a build's VM once more");
        let text = match failed {
            hearth_microvm::Error::Silent { .. } => {
                "The microVM hung while it booted; it is booted once more"
            }
            _ => "The microVM ended while it booted; it is booted once more",
        };
        self.log.add(Some(self.part), Level::Warn, text);
    }
}

pub(crate) struct Vm {
    ready: AgentReady,
    tasks: TaskTracker,
    client: AgentClient,
}

/// The disk of a VM that has ended, and what its agent said of itself.
pub(crate) struct SavedDisk {
    pub(crate) device: Arc<Device>,
    pub(crate) agent_version: String,
}

impl Vm {
    /// Boots and waits for the agent. What it takes is given back before it fails,
    /// and by `tasks` should the future be dropped.
    pub(crate) async fn boot(
        shared: &Shared,
        tasks: &TaskTracker,
        request: &BootRequest<'_>,
    ) -> Result<Self, VmError> {
        // Short, since a socket's path is: the beginning of the id tells enough.
        let name = request.build.uuid().simple().to_string();
        let run_dir = shared.config.run_dir.join(&name[..12]);
        let lifetime = Lifetime::Scoped(tasks.clone());
        let held = SlotHeld::acquire(&shared.slots, &Owner::Build, run_dir, lifetime)
            .await
            .map_err(VmError::Start)?;
        match bring_up(shared, held, request).await {
            Ok(ready) => Ok(Self {
                tasks: tasks.clone(),
                client: ready.agent.client(CALL_LIMIT)?,
                ready,
            }),
            Err(failed) => {
                let Failed { error, held } = *failed;
                if let Err(error) = held.release().await {
                    tracing::error!(error = %crate::error::chain(&error), "release a build's VM failed");
                }
                Err(VmError::Start(error))
            }
        }
    }

    /// Completes when the VM process has ended of itself, with the reason.
    pub(crate) async fn ended(&self) -> String {
        self.ready.vm.machine().exited().await.to_string()
    }

    /// For calls about processes.
    pub(crate) fn client(&self) -> &AgentClient {
        &self.client
    }

    /// Reads a small text file as root; `None` when there is none.
    pub(crate) async fn file_read(
        &self,
        path: &str,
    ) -> hearth_agent_client::Result<Option<String>> {
        self.ready.agent.file_read(path, CALL_LIMIT).await
    }

    /// Writes a file as root out of one of the host.
    pub(crate) async fn file_send(&self, from: &Path, to: &str) -> hearth_agent_client::Result<()> {
        self.ready.agent.file_send(from, to, SEND_LIMIT).await
    }

    /// Closes the layer that takes the writes, with a whole and clean file
    /// system, and goes on in the new layer `next`.
    pub(crate) async fn checkpoint(&self, next: &Path) -> Result<(), VmError> {
        let agent = &self.ready.agent;
        let _unlimited = self.ready.vm.disk().map(|disk| disk.unlimited());
        agent.operate(Operation::FsFreeze, FREEZE_LIMIT).await?;
        self.ready.vm.settle_disk().await.map_err(VmError::Start)?;
        let (device, next) = (self.device(), next.to_owned());
        let sealed = self
            .tasks
            .spawn_blocking(move || device.seal(&next))
            .await?;
        agent.operate(Operation::FsThaw, CALL_LIMIT).await?;
        let sealing = sealed.map_err(VmError::Disk)?;
        self.tasks
            .spawn_blocking(move || sealing.finish())
            .await??;
        Ok(())
    }

    /// Stops the guest's clock and writes its devices; its memory is in the
    /// memory file. Ends the VM; its disk can be read on.
    pub(crate) async fn save(self, device_state: &Path) -> Result<SavedDisk, VmError> {
        let device = self.device();
        // Its connections are not to be part of what is saved.
        drop(self.client);
        let AgentReady { vm, version, .. } = self.ready;
        let saved = vm.save(device_state).await;
        let released = vm.release().await;
        saved?;
        released?;
        Ok(SavedDisk {
            device,
            agent_version: version,
        })
    }

    /// Ends the VM in order.
    pub(crate) async fn stop(self) -> Result<(), VmError> {
        Ok(self.ready.vm.release().await?)
    }

    fn device(&self) -> Arc<Device> {
        let disk = self.ready.vm.disk();
        Arc::clone(&disk.expect("a VM that was booted here has its disk").device)
    }
}

async fn bring_up(
    shared: &Shared,
    held: SlotHeld,
    request: &BootRequest<'_>,
) -> Result<AgentReady, Box<Failed>> {
    let boot = Boot {
        disk: request.disk.clone(),
        guest: Kernel {
            name: format!("template-{}", request.build),
            shape: VmShape {
                vcpus: request.vcpus,
                memory_bytes: request.memory_mib << 20,
            },
            kernel: shared.config.guest.kernel.clone(),
            initramfs: shared.config.guest.initramfs.clone(),
            memory_file: request.memory_file.clone(),
        },
        limits: BootLimits::BUILD,
    };
    let mut journal = BuildJournal {
        build: request.build,
        records: &shared.vm_records,
        record: None,
        log: request.log,
        part: request.part,
    };
    let ready = hearth_microvm::boot(held, &shared.engine, &boot, &mut journal).await?;
    ready.init(&request.init).await
}
