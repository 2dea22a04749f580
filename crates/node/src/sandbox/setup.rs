//! The steps of a start. Each one that takes something journals it first or at
//! once after, so that a daemon killed between any two leaves nothing unknown.
//! A failed step leaves what was taken in [`Resources`], for the driver to give
//! back.

use super::{
    egress,
    ground::{Ground, Secrets},
    resources::{Disk, Resources, run_dir_of},
};
use crate::{
    artefacts,
    error::Error,
    hooks::Step,
    journal::{Origin, Record},
    node::Shared,
    processor,
    spec::SandboxState,
    warm_pool,
};
use hearth_agent_client::{Agent, Init};
use hearth_block::{
    Device, DeviceConfig, WritableConfig,
    server::{self, ServerConfig},
};
use hearth_confine::Confinement;
use hearth_ids::SandboxId;
use hearth_machine::{
    BootSpec, DiskAttachment, Machine, MemoryOverlay, MemoryPiece, NetworkAttachment, RestoreSpec,
    VmShape,
};
use hearth_network::{Slot, services::SERVICE_ADDRESS};
use hearth_snapshot::{Shape, difference::Composition};
use std::{os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc, time::Duration};

/// Name of the NBD export of every sandbox's disk.
const EXPORT: &str = "root";
/// User and directory that commands run as and in, unless the template says.
pub(crate) const DEFAULT_USER: &str = "user";
pub(crate) const DEFAULT_WORKDIR: &str = "/home/user";
/// What a VM process may take beyond its guest's memory: QEMU, its translation
/// buffers, and page tables.
const OVERHEAD_BYTES: u64 = 192 << 20;
/// The same where a kernel boots: far more code is translated.
const BOOT_OVERHEAD_BYTES: u64 = 512 << 20;
/// How long a guest may take from its kernel's start to an agent that listens.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Memory of a booted VM, in the sandbox's directory.
pub(crate) const MEMORY_FILE: &str = "memory.img";

pub(crate) fn cgroup_name(id: &SandboxId) -> String {
    format!("hearth-{id}")
}

pub(crate) fn run_dir(shared: &Shared, id: &SandboxId) -> PathBuf {
    run_dir_of(&shared.config.run_dir, id)
}

/// Who the guest is to be after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Another machine than the one that was saved.
    New,
    /// The one that was saved.
    Same,
}

/// Starts the VM as the record's origin says, up to an agent that has taken its
/// settings. The record is in a journal already.
pub(crate) async fn start(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &mut Resources,
    identity: Identity,
) -> Result<(), Error> {
    // A rollback keeps the slot, and with it the address.
    if resources.slot.is_none() {
        resources.slot = Some(slot_with_room(shared).await?);
    }
    launch(shared, ground, record, resources).await?;
    introduce(shared, ground, record, resources, identity).await
}

/// Makes a warm sandbox that of the record, whose VM it is already.
pub(crate) async fn hand_over(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &mut Resources,
) -> Result<(), Error> {
    if let Some(slot) = &resources.slot {
        egress::enter(shared, &record.spec, slot).await?;
    }
    write_journal(shared, record)?;
    let machine = resources.machine.as_ref();
    let machine = machine.ok_or_else(|| Error::step("let the VM run")("it has none".to_owned()))?;
    machine
        .resume()
        .await
        .map_err(Error::step("let the VM run"))?;
    introduce(shared, ground, record, resources, Identity::New).await
}

/// Takes what a VM needs and starts it. The record is in a journal already.
pub(crate) async fn launch(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &mut Resources,
) -> Result<(), Error> {
    let id = record.spec.sandbox_id.clone();
    if resources.slot.is_none() {
        resources.slot = Some(acquire_slot(shared).await?);
    }
    let slot = resources.slot.as_ref().expect("taken above");
    record.slot = Some(slot.index);
    egress::enter(shared, &record.spec, slot).await?;
    let run_dir = run_dir(shared, &id);
    resources.run_dir = Some(run_dir.clone());
    make_run_dir(&run_dir, slot.uid)?;
    write_journal(shared, record)?;
    shared.hooks.reached(Step::SlotTaken)?;

    tracing::debug!(sandbox = %id, slot = slot.index, "slot taken");
    resources.disk = Some(open_disk(shared, ground, record, slot.uid).await?);
    shared.hooks.reached(Step::DiskServed)?;
    tracing::debug!(sandbox = %id, "disk served");
    resources.cgroup = Some(cgroup_name(&id));
    let machine = start_machine(shared, ground, &id, slot, run_dir).await?;
    record.machine = Some(machine.record());
    resources.machine = Some(machine);
    write_journal(shared, record)?;
    shared.hooks.reached(Step::VmStarted)?;
    tracing::debug!(sandbox = %id, "VM started");
    Ok(())
}

/// Tells the agent whose it is.
async fn introduce(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &Resources,
    identity: Identity,
) -> Result<(), Error> {
    record.envd_version = greet_agent(shared, ground, record, resources, identity).await?;
    shared.hooks.reached(Step::Greeted)?;
    tracing::debug!(sandbox = %record.spec.sandbox_id, "agent set up");
    record.state = SandboxState::Running;
    record.paused = None;
    write_journal(shared, record)
}

pub(crate) fn write_journal(shared: &Shared, record: &Record) -> Result<(), Error> {
    shared
        .journals
        .write(record)
        .map_err(Error::step("write the sandbox's journal"))
}

async fn start_machine(
    shared: &Shared,
    ground: &Ground,
    id: &SandboxId,
    slot: &Slot,
    run_dir: PathBuf,
) -> Result<Box<dyn Machine>, Error> {
    match &ground.memory {
        Some(stack) => {
            let here = shared.engine.capabilities().accelerator;
            processor::check(&stack.build.manifest.cpu, &here)
                .map_err(Error::step("restore the VM"))?;
            shared
                .engine
                .restore(restore_spec(ground, id, slot, run_dir)?)
                .await
                .map_err(Error::step("restore the VM"))
        }
        None => shared
            .engine
            .boot(boot_spec(shared, ground, id, slot, run_dir)?)
            .await
            .map_err(Error::step("boot the VM")),
    }
}

/// Takes a slot; warm sandboxes that hold one make room.
async fn slot_with_room(shared: &Shared) -> Result<Slot, Error> {
    match acquire_slot(shared).await {
        Err(Error::Capacity(_)) if Box::pin(warm_pool::make_room(shared)).await => {
            acquire_slot(shared).await
        }
        result => result,
    }
}

async fn acquire_slot(shared: &Shared) -> Result<Slot, Error> {
    shared.slots.acquire().await.map_err(|error| match error {
        hearth_network::Error::Exhausted { .. } => Error::Capacity(error.to_string()),
        other => Error::step("take a network slot")(other),
    })
}

fn make_run_dir(path: &std::path::Path, uid: u32) -> Result<(), Error> {
    let attempt = || -> std::io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)?;
        std::os::unix::fs::chown(path, Some(uid), Some(uid))
    };
    attempt().map_err(Error::step("make the sandbox's run directory"))
}

/// Opens the sandbox's disk, new or as it was, and serves it.
pub(crate) async fn open_disk(
    shared: &Shared,
    ground: &Ground,
    record: &Record,
    uid: u32,
) -> Result<Disk, Error> {
    let id = &record.spec.sandbox_id;
    let own = shared.journals.dir(id);
    let below = &ground.disk.disk;
    let sealed = record.disk.sealed.iter().map(|name| own.join(name));
    let config = DeviceConfig {
        base: Some(below.image.clone()),
        layers: below.layers.iter().cloned().chain(sealed).collect(),
        writable: Some(WritableConfig {
            directory: own.join(&record.disk.writable),
            limit_bytes: None,
            // Guests meet a full disk before the host does.
            reserve_bytes: shared.config.disk_reserve_bytes,
        }),
        size_bytes: ground.disk.build.manifest.shape.disk_mib << 20,
    };
    let device = tokio::task::spawn_blocking(move || Device::open_or_create(&config))
        .await
        .map_err(Error::step("open the disk"))?
        .map_err(Error::step("open the disk"))?;
    let device = Arc::new(device);
    let socket = run_dir(shared, id).join("nbd.sock");
    let config = ServerConfig {
        owner: Some((uid, uid)),
        admission: admission(cgroup_name(id)),
        ..ServerConfig::new(socket, EXPORT)
    };
    let server =
        server::serve(&config, Arc::clone(&device)).map_err(Error::step("serve the disk"))?;
    Ok(Disk {
        device,
        server,
        sealing: Vec::new(),
    })
}

/// The processes in the sandbox's control group: its VM, and no other sandbox's.
fn admission(cgroup: String) -> server::Admission {
    server::Admission::by(move |pid| hearth_confine::is_member(&cgroup, pid))
}

fn vm_shape(shape: Shape) -> VmShape {
    VmShape {
        vcpus: shape.vcpus,
        memory_bytes: shape.memory_mib << 20,
    }
}

fn disk_attachment(run_dir: &std::path::Path) -> DiskAttachment {
    DiskAttachment {
        nbd_socket: run_dir.join("nbd.sock"),
        export: EXPORT.to_owned(),
    }
}

fn network_attachment(slot: &Slot) -> NetworkAttachment {
    NetworkAttachment {
        netns: slot.netns_path.clone(),
        tap: slot.tap.clone(),
        mac: slot.mac,
    }
}

fn confinement(id: &SandboxId, slot: &Slot, memory_limit_bytes: u64) -> Confinement {
    Confinement {
        netns: Some(slot.netns_path.clone()),
        uid: slot.uid,
        gid: slot.uid,
        cgroup_name: Some(cgroup_name(id)),
        memory_limit_bytes: Some(memory_limit_bytes),
        ..Confinement::default()
    }
}

fn restore_spec(
    ground: &Ground,
    id: &SandboxId,
    slot: &Slot,
    run_dir: PathBuf,
) -> Result<RestoreSpec, Error> {
    let restore = || {
        let stack = ground.memory.as_ref()?;
        Some((stack, stack.memory.as_ref()?, stack.device_state_path()?))
    };
    let (stack, memory, device_state) = restore().ok_or_else(|| {
        Error::step("restore the VM")("the build keeps no memory, only a disk".to_owned())
    })?;
    let shape = vm_shape(stack.build.manifest.shape);
    Ok(RestoreSpec {
        id: id.to_string(),
        disk: disk_attachment(&run_dir),
        run_dir,
        memory_file: memory.image.clone(),
        memory_overlay: overlay(memory),
        device_state,
        network: Some(network_attachment(slot)),
        confinement: Some(confinement(id, slot, shape.memory_bytes + OVERHEAD_BYTES)),
        shape,
        resume: true,
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

fn boot_spec(
    shared: &Shared,
    ground: &Ground,
    id: &SandboxId,
    slot: &Slot,
    run_dir: PathBuf,
) -> Result<BootSpec, Error> {
    let manifest = &ground.disk.build.manifest;
    let root = shared.config.state_dir.join("artefacts");
    let find = |kind, name, digest| {
        artefacts::find(&root, kind, name, digest).map_err(Error::step("find the guest's kernel"))
    };
    let shape = vm_shape(manifest.shape);
    let limit = shape.memory_bytes + BOOT_OVERHEAD_BYTES;
    Ok(BootSpec {
        id: id.to_string(),
        disk: disk_attachment(&run_dir),
        run_dir,
        kernel: find("kernel", "vmlinux", manifest.inputs.kernel.blake3)?,
        initramfs: find(
            "initramfs",
            "initramfs.cpio",
            manifest.inputs.initramfs.blake3,
        )?,
        cmdline_extra: String::new(),
        memory_file: shared.journals.dir(id).join(MEMORY_FILE),
        network: Some(network_attachment(slot)),
        confinement: Some(confinement(id, slot, limit)),
        shape,
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
    let host = resources
        .address()
        .expect("the slot is taken before the VM is started");
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
    let answer = async {
        match record.origin() {
            Origin::Restored(_) => agent.init(&settings, shared.config.agent_timeout).await,
            Origin::Booted => init_booting(&agent, &settings).await,
        }
    };
    tokio::select! {
        answer = answer => answer.map_err(Error::step("hand the agent its settings")),
        why = resources.vm_ended() => Err(Error::step("hand the agent its settings")(why)),
    }
}

/// The same for a guest that is only booting: asked again until it listens.
async fn init_booting(agent: &Agent, settings: &Init<'_>) -> hearth_agent_client::Result<String> {
    /// Before the guest has its address nothing answers a connection at all.
    const ATTEMPT: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(50);
    let asking = async {
        loop {
            match agent.init(settings, ATTEMPT).await {
                Ok(version) => return Ok(version),
                Err(refused) if refused.status().is_some() => return Err(refused),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::time::timeout(BOOT_LIMIT, asking)
        .await
        .unwrap_or(Err(hearth_agent_client::Error::Timeout(BOOT_LIMIT)))
}
