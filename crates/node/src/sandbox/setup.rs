//! The steps of a start. Each one that takes something journals it first or at
//! once after, so that a daemon killed between any two leaves nothing unknown. The
//! stages of the VM itself are [`hearth_microvm`]'s; a failed one leaves the slot in
//! [`Resources`], for the driver to give back.

use super::{
    egress,
    ground::{Ground, Secrets},
    resources::Resources,
    volumes,
};
use crate::{
    artefacts,
    error::Error,
    events::{self, Details, Durability, EventKind},
    hooks::Step,
    journal::Record,
    node::Shared,
    spec::SandboxState,
    warm_pool,
};
use async_trait::async_trait;
use hearth_agent_client::{Agent, Init};
use hearth_ids::SandboxId;
use hearth_machine::{MachineRecord, MemoryOverlay, MemoryPiece, MemorySource, VmShape};
use hearth_microvm::{
    Boot, BootLimits, Cause, Disk, Failed, Journal, Kernel, Launched, Lifetime, Opening, Owner,
    SavedVm, SlotHeld,
};
use hearth_network::{Slot, services::SERVICE_ADDRESS};
use hearth_snapshot::{Shape, difference::Composition};
use std::path::PathBuf;

/// User and directory that commands run as and in, unless the template says.
pub(crate) const DEFAULT_USER: &str = "user";
pub(crate) const DEFAULT_WORKDIR: &str = "/home/user";
/// Memory of a booted VM, in the sandbox's directory.
pub(crate) const MEMORY_FILE: &str = "memory.img";
/// Where an engine may collect what the VM writes to its memory.
pub(crate) const MEMORY_SCRATCH_FILE: &str = "memory.scratch";

/// Where a memory in pieces is put together, see [`hearth_microvm::composed_image`].
pub(crate) const MEMORY_COMPOSED_FILE: &str = "memory.scratch.image";

/// Directory of a sandbox's sockets and console.
pub(crate) fn run_dir(shared: &Shared, id: &SandboxId) -> PathBuf {
    shared.config.run_dir.join("sb").join(id.as_str())
}

/// Who the guest is to be after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Another machine than the one that was saved.
    New,
    /// The one that was saved.
    Same,
}

/// What is told of a start, if anything.
pub(crate) type Told = Option<(EventKind, Details)>;

/// What is told of a new sandbox.
pub(crate) fn created(record: &Record) -> Told {
    let details = Details {
        forked_from: record.forked_from.clone(),
        ..Details::default()
    };
    Some((EventKind::Created, details))
}

/// Starts the VM as the record's origin says, up to an agent that has taken its
/// settings. The record is in a journal already.
pub(crate) async fn start(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &mut Resources,
    (identity, told): (Identity, Told),
) -> Result<(), Error> {
    // A rollback keeps the slot, and with it the address.
    if matches!(resources, Resources::Nothing) {
        let held = slot_with_room(shared, &record.spec.sandbox_id).await?;
        *resources = Resources::Slot(held);
    }
    let started = async {
        launch(shared, ground, record, resources).await?;
        introduce(shared, ground, record, resources, (identity, told)).await
    };
    // Boxed, as it is part of many other futures.
    shared.start_limit.start(Box::pin(started)).await
}

/// Makes a warm sandbox that of the record, whose VM it is already.
pub(crate) async fn hand_over(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &mut Resources,
) -> Result<(), Error> {
    let vm = resources.vm();
    let vm = vm.ok_or_else(|| Error::step("let the VM run")("it has none".to_owned()))?;
    egress::enter(shared, &record.spec, vm.slot()).await?;
    volumes::enter(shared, &record.spec, vm.slot());
    write_journal(shared, record)?;
    vm.machine()
        .resume()
        .await
        .map_err(Error::step("let the VM run"))?;
    let told = created(record);
    introduce(shared, ground, record, resources, (Identity::New, told)).await
}

/// Takes what a VM needs and starts it. The record is in a journal already.
pub(crate) async fn launch(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &mut Resources,
) -> Result<(), Error> {
    let id = record.spec.sandbox_id.clone();
    let disk = disk(shared, ground, record);
    let start = Start::of(shared, ground, &id)?;
    let held = match resources.take_slot().await? {
        Some(held) => held,
        None => acquire_slot(shared, &id).await?,
    };
    let mut journal = StartJournal { shared, record };
    // Boxed: a start has many stages, and its future is part of many others.
    let started = match start {
        Start::Restore(saved) => Box::pin(restore(shared, held, &disk, &saved, &mut journal)).await,
        Start::Boot(guest) => {
            let limits = BootLimits::SANDBOX;
            let boot = Boot {
                disk,
                guest,
                limits,
            };
            let engine = &shared.engine;
            let ready = Box::pin(hearth_microvm::boot(held, engine, &boot, &mut journal)).await;
            ready.map(|ready| ready.vm)
        }
    };
    match started {
        Ok(vm) => {
            *resources = Resources::Vm(vm);
            Ok(())
        }
        Err(failed) => {
            let Failed { error, held } = *failed;
            *resources = Resources::Slot(held);
            Err(not_started(error))
        }
    }
}

async fn restore(
    shared: &Shared,
    held: SlotHeld,
    disk: &Disk,
    saved: &SavedVm,
    journal: &mut StartJournal<'_>,
) -> Result<Launched, Box<Failed>> {
    let served = held.serve(disk, journal).await?;
    served.restore(&shared.engine, saved, journal).await
}

/// A stage's failure as the node's; what the journal said is the node's own already.
fn not_started(error: hearth_microvm::Error) -> Error {
    use hearth_microvm::Error as Cause;
    match error {
        Cause::Slot(error @ hearth_network::Error::Exhausted { .. }) => {
            Error::Capacity(error.to_string())
        }
        Cause::Journal(cause) => match cause.downcast::<Error>() {
            Ok(error) => *error,
            Err(cause) => Error::step("record the start of the VM")(cause),
        },
        other => Error::step("start the VM")(other),
    }
}

/// Keeps a sandbox's journal while its VM starts.
struct StartJournal<'a> {
    shared: &'a Shared,
    record: &'a mut Record,
}

impl StartJournal<'_> {
    fn step(&self, step: Step) -> Result<(), Cause> {
        self.shared.hooks.reached(step)?;
        tracing::debug!(sandbox = %self.record.spec.sandbox_id, ?step, "start step done");
        Ok(())
    }
}

#[async_trait]
impl Journal for StartJournal<'_> {
    async fn slot_held(&mut self, slot: &Slot) -> Result<(), Cause> {
        self.record.slot = Some(slot.index);
        egress::enter(self.shared, &self.record.spec, slot).await?;
        volumes::enter(self.shared, &self.record.spec, slot);
        write_journal(self.shared, self.record)?;
        self.step(Step::SlotTaken)
    }

    async fn disk_served(&mut self) -> Result<(), Cause> {
        self.step(Step::DiskServed)
    }

    async fn launched(&mut self, machine: &MachineRecord) -> Result<(), Cause> {
        self.record.machine = Some(machine.clone());
        write_journal(self.shared, self.record)?;
        self.step(Step::VmStarted)
    }

    fn boots_again(&mut self, silent: &hearth_microvm::Error) {
        let id = &self.record.spec.sandbox_id;
        tracing::warn!(sandbox = %id, error = %silent, "boot sandbox failed: booting it once more");
    }
}

/// Tells the agent whose it is.
async fn introduce(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &Resources,
    (identity, told): (Identity, Told),
) -> Result<(), Error> {
    record.envd_version = greet_agent(shared, ground, record, resources, identity).await?;
    shared.hooks.reached(Step::Greeted)?;
    tracing::debug!(sandbox = %record.spec.sandbox_id, "agent set up");
    record.state = SandboxState::Running;
    record.paused = None;
    match told {
        Some(event) => write_event(shared, record, event, Durability::Daemon),
        None => write_journal(shared, record),
    }
}

/// Writes the journal with an event that tells of what it says, then posts that.
pub(crate) fn write_event(
    shared: &Shared,
    record: &mut Record,
    event: (EventKind, Details),
    durability: Durability,
) -> Result<(), Error> {
    let to = (&shared.journals, &shared.outbox);
    events::commit(to, record, event, durability)
        .map_err(Error::step("write the sandbox's journal"))
}

pub(crate) fn write_journal(shared: &Shared, record: &Record) -> Result<(), Error> {
    shared
        .journals
        .write(record)
        .map_err(Error::step("write the sandbox's journal"))
}

/// Takes a slot; warm sandboxes that hold one make room.
async fn slot_with_room(shared: &Shared, id: &SandboxId) -> Result<SlotHeld, Error> {
    match acquire_slot(shared, id).await {
        Err(Error::Capacity(_)) if Box::pin(warm_pool::make_room(shared)).await => {
            acquire_slot(shared, id).await
        }
        result => result,
    }
}

async fn acquire_slot(shared: &Shared, id: &SandboxId) -> Result<SlotHeld, Error> {
    let (owner, run_dir) = (Owner::Sandbox(id.clone()), run_dir(shared, id));
    let held = SlotHeld::acquire(&shared.slots, &owner, run_dir, Lifetime::Journaled);
    held.await.map_err(not_started)
}

/// The sandbox's disk, new or as it was.
pub(crate) fn disk(shared: &Shared, ground: &Ground, record: &Record) -> Disk {
    let own = shared.journals.dir(&record.spec.sandbox_id);
    let below = &ground.disk.disk;
    let sealed = record.disk.sealed.iter().map(|name| own.join(name));
    Disk {
        image: below.image.clone(),
        layers: below.layers.iter().cloned().chain(sealed).collect(),
        writable: own.join(&record.disk.writable),
        opening: Opening::OpenOrCreate,
        limit_bytes: None,
        // Guests meet a full disk before the host does.
        reserve_bytes: shared.config.disk_reserve_bytes,
        io: shared.config.disk_io,
        size_bytes: ground.disk.build.manifest.shape.disk_mib << 20,
    }
}

/// How the VM of a sandbox begins.
enum Start {
    Restore(SavedVm),
    Boot(Kernel),
}

impl Start {
    fn of(shared: &Shared, ground: &Ground, id: &SandboxId) -> Result<Self, Error> {
        match &ground.memory {
            Some(stack) => {
                let here = hearth_microvm::host(&shared.engine.capabilities());
                stack.build.manifest.runs_on(&here)?;
                Ok(Self::Restore(saved_vm(shared, ground, id)?))
            }
            None => Ok(Self::Boot(kernel(shared, ground, id)?)),
        }
    }
}

fn vm_shape(shape: Shape) -> VmShape {
    VmShape {
        vcpus: shape.vcpus,
        memory_bytes: shape.memory_mib << 20,
    }
}

fn saved_vm(shared: &Shared, ground: &Ground, id: &SandboxId) -> Result<SavedVm, Error> {
    let restore = || {
        let stack = ground.memory.as_ref()?;
        Some((stack, stack.memory.as_ref()?, stack.device_state_path()?))
    };
    let (stack, memory, device_state) = restore().ok_or_else(|| {
        Error::step("restore the VM")("the build keeps no memory, only a disk".to_owned())
    })?;
    Ok(SavedVm {
        name: id.to_string(),
        shape: vm_shape(stack.build.manifest.shape),
        memory: MemorySource::new(memory.image.clone(), overlay(memory)),
        scratch: shared.journals.dir(id).join(MEMORY_SCRATCH_FILE),
        device_state,
    })
}

fn overlay(memory: &Composition) -> MemoryOverlay {
    let pieces = memory.pieces.iter().map(|piece| MemoryPiece {
        file: piece.file,
        file_offset: piece.file_offset,
        memory_offset: piece.memory_offset,
        length: piece.length,
    });
    MemoryOverlay {
        files: memory.files.clone(),
        pieces: pieces.collect(),
    }
}

fn kernel(shared: &Shared, ground: &Ground, id: &SandboxId) -> Result<Kernel, Error> {
    let manifest = &ground.disk.build.manifest;
    let root = shared.config.state_dir.join("artefacts");
    let find = |kind, name, digest| {
        artefacts::find(&root, kind, name, digest).map_err(Error::step("find the guest's kernel"))
    };
    let inputs = &manifest.inputs;
    Ok(Kernel {
        name: id.to_string(),
        shape: vm_shape(manifest.shape),
        kernel: find("kernel", "vmlinux", inputs.kernel.blake3)?,
        initramfs: find("initramfs", "initramfs.cpio", inputs.initramfs.blake3)?,
        memory_file: shared.journals.dir(id).join(MEMORY_FILE),
    })
}

/// Hands the agent its settings; gives up early when the VM ends meanwhile.
async fn greet_agent(
    shared: &Shared,
    ground: &Ground,
    record: &Record,
    resources: &Resources,
    identity: Identity,
) -> Result<String, Error> {
    let vm = resources.vm();
    let vm =
        vm.ok_or_else(|| Error::step("hand the agent its settings")("there is no VM".to_owned()))?;
    let host = vm.address();
    let spec = &record.spec;
    let authority = egress::authority(shared, spec, host)?;
    let ca_bundle = egress::ca_bundle(shared, authority.as_deref());
    let defaults = ground
        .defaults()
        .map_err(Error::step("read the template's defaults"))?;
    let env_vars = egress::environment(defaults.env, spec, ca_bundle.is_some());
    let settings = Init::new(&defaults.user, &defaults.workdir);
    let settings = Init {
        env_vars: Some(&env_vars),
        // An empty one takes away what the agent in a build's memory expects.
        access_token: Some(spec.envd_access_token.as_deref().unwrap_or_default()),
        hostname: Some(spec.sandbox_id.as_str()),
        sandbox_id: Some(spec.sandbox_id.as_str()),
        template_id: Some(spec.template_id.as_str()),
        hyperloop_ip: Some(SERVICE_ADDRESS),
        ca_bundle: ca_bundle.as_deref(),
        volume_mounts: Some(volumes::for_guest(shared, spec)),
        ..match identity {
            Identity::New => settings.with_new_machine_id(),
            Identity::Same => settings,
        }
    };
    let former = match &ground.memory {
        Some(stack) => Secrets::read(stack)?,
        None => None,
    };
    // What an agent expects that was saved with another sandbox's token.
    let former = former
        .as_ref()
        .and_then(|secrets| secrets.envd_access_token.as_deref());
    let agent = Agent::new(host)
        .with_token(former)
        .map_err(Error::step("hand the agent its settings"))?;
    vm.init(&agent, &settings, shared.config.agent_timeout)
        .await
        .map_err(|error| volumes::refusal(error, spec))
}
