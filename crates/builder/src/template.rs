//! From a root file system to a build that sandboxes start from: boot once, warm
//! up, stop the clock, keep memory, devices and disk together.
//!
//! The three belong together: the disk is copied out only after the guest has
//! synced and the VM has been paused and ended, so the memory image never knows
//! of a block that the disk image lacks.

use crate::{
    Artefacts, Error,
    error::blocking,
    progress::{Outcome, Progress, Stage, StageProgress},
    warmup::{self, BootLimits},
};
use hearth_agent_client::Agent;
use hearth_block::{
    Device, DeviceConfig, WritableConfig,
    server::{self, ServerConfig},
};
use hearth_confine::Confinement;
use hearth_ids::BuildId;
use hearth_machine::{
    BootSpec, Capabilities, DiskAttachment, Engine, Machine, NetworkAttachment, SaveTarget, VmShape,
};
use hearth_network::{Slot, SlotPool};
use hearth_snapshot::{
    Accelerator, ArtefactStore, Build, Component, CpuRequirement, DEVICE_STATE_FILE, Digest, Draft,
    EngineVersion, FileRole, Inputs, Kind, LocalStore, MEMORY_FILE, ROOTFS_FILE, Shape,
    TemplateDetails, sparse,
};
use std::{
    fs::File,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const EXPORT: &str = "root";
/// What the guest writes while it comes up.
const BOOT_LAYER: &str = "boot-layer";
/// How long a guest may take from its kernel's start to an agent that listens.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// What the VM process may take beyond its guest's memory.
const OVERHEAD_BYTES: u64 = 512 << 20;
/// Unit in which the disk is copied out, in bytes.
const COPY_BYTES: u64 = 1 << 20;

/// What a template is made from.
#[derive(Debug, Clone)]
pub struct TemplateSpec {
    pub name: String,
    pub shape: Shape,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// Raw ext4 image of exactly the shape's disk size; it is not changed.
    pub rootfs: PathBuf,
    pub inputs: Inputs,
    /// Lines that a login shell of the default user runs before the snapshot, so
    /// that what sandboxes use first is already in the guest's memory.
    pub warm_up: Vec<String>,
    /// What templates that are built upon this one inherit; a start command among it
    /// is one of the lines above.
    pub details: TemplateDetails,
}

/// Changes whenever templates are made differently from the same inputs.
const RECIPE: u32 = 4;

/// Lines that a first sandbox is likely to run, so that what they touch is already
/// in the guest's memory.
const BASE_WARM_UP: &[&str] = &[
    "true",
    "echo hi",
    "python3 -c 'import json, os, subprocess, sys, urllib.request'",
    "python3 -c 'print(6 * 7)'",
    "node -e 'console.log(1)'",
    "git --version",
    "curl --version > /dev/null",
    "sudo -n true",
    "ls -la /tmp ~ > /dev/null",
];

impl TemplateSpec {
    /// The `base` template out of its artefacts, for machines of one shape and one
    /// engine on one accelerator.
    #[must_use]
    pub fn base(
        artefacts: Artefacts,
        agent_version: &str,
        shape: Shape,
        capabilities: &Capabilities,
    ) -> Self {
        let lines = BASE_WARM_UP.iter().map(|line| (*line).to_owned()).collect();
        Self::named("base", artefacts, agent_version, shape, capabilities, lines)
    }

    pub(crate) fn named(
        name: &str,
        artefacts: Artefacts,
        agent_version: &str,
        shape: Shape,
        capabilities: &Capabilities,
        warm_up: Vec<String>,
    ) -> Self {
        let Artefacts {
            kernel,
            initramfs,
            rootfs,
        } = artefacts;
        let parts = [
            RECIPE.to_string(),
            kernel.digest.to_string(),
            initramfs.digest.to_string(),
            rootfs.digest.to_string(),
            format!("{} {} {}", shape.vcpus, shape.memory_mib, shape.disk_mib),
            format!("{} {}", capabilities.engine, capabilities.version),
            accelerator_of(capabilities).1.to_owned(),
            warm_up.join("\n"),
        ];
        Self {
            name: name.to_owned(),
            shape,
            inputs: Inputs {
                kernel: Component::new(kernel.version, kernel.digest),
                initramfs: Component::new(agent_version, initramfs.digest),
                agent: Component::new(agent_version, initramfs.agent_digest),
                rootfs: Component::new(rootfs.release, rootfs.digest),
                key: Digest::of(parts.join("\0").as_bytes()),
            },
            kernel: kernel.vmlinux,
            initramfs: initramfs.path,
            rootfs: rootfs.image,
            warm_up,
            details: TemplateDetails::default(),
        }
    }
}

/// The newest build in the store that was made from exactly these inputs.
///
/// # Errors
/// When the store cannot be read.
pub async fn find(store: &LocalStore, spec: &TemplateSpec) -> Result<Option<Build>, Error> {
    let manifests = store.list().await?;
    let found = manifests.into_iter().rev().find(|manifest| {
        manifest.inputs.key == spec.inputs.key
            && manifest.name.as_deref() == Some(spec.name.as_str())
    });
    match found {
        Some(manifest) => Ok(Some(store.open(manifest.build_id).await?)),
        None => Ok(None),
    }
}

/// Copies a build from another store; the copy has the same id and content.
///
/// # Errors
/// When a file cannot be read or written, or is not what its manifest says.
pub async fn copy(from: &Build, to: &LocalStore, progress: &dyn Progress) -> Result<Build, Error> {
    let progress = StageProgress::new(progress, Stage::Snapshot);
    progress.step("copying from the cache");
    let build = to.import(from).await?;
    progress.finished(Outcome::FromCache);
    Ok(build)
}

/// The accelerator as manifests name it, with the processor model that guests see.
#[must_use]
pub fn accelerator_of(capabilities: &Capabilities) -> (Accelerator, &'static str) {
    match capabilities.accelerator {
        hearth_machine::accelerator::Accelerator::Kvm => (Accelerator::Kvm, "host"),
        hearth_machine::accelerator::Accelerator::Tcg { .. } => {
            (Accelerator::Tcg, hearth_machine::qemu::EMULATED_CPU)
        }
    }
}

/// Where the work happens and with what.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    pub engine: &'a dyn Engine,
    pub slots: &'a SlotPool,
    pub store: &'a LocalStore,
    /// Short directory for sockets and the console; made and removed here.
    pub run_dir: &'a Path,
}

/// Boots, warms up, saves and publishes. A failure leaves nothing behind.
///
/// # Errors
/// Any; a guest that does not come up is reported with its console's last lines.
pub async fn snapshot(
    spec: &TemplateSpec,
    workshop: Workshop<'_>,
    progress: &dyn Progress,
) -> Result<Build, Error> {
    let progress = StageProgress::new(progress, Stage::Snapshot);
    let run_dir = RunDir(workshop.run_dir);
    end_leftovers(run_dir.0);
    let staging = workshop.store.stage(BuildId::random()).await?;
    let slot = workshop.slots.acquire().await?;
    let result = in_slot(spec, workshop, &slot, staging.directory(), progress).await;
    let released = workshop.slots.release(slot).await;
    drop(run_dir);
    result?;
    released?;

    progress.step("storing the build");
    let details = staging.directory();
    spec.details
        .save(details)
        .map_err(Error::io("describe the template in", details))?;
    let capabilities = workshop.engine.capabilities();
    let (accelerator, model) = accelerator_of(&capabilities);
    let draft = Draft {
        kind: Kind::Template,
        name: Some(spec.name.clone()),
        shape: spec.shape,
        engine: EngineVersion {
            name: capabilities.engine.to_owned(),
            version: capabilities.version,
        },
        cpu: CpuRequirement {
            accelerator,
            model: model.to_owned(),
            features: host_features(accelerator)?,
        },
        inputs: spec.inputs.clone(),
        parents: Vec::new(),
        files: vec![
            (FileRole::Memory, MEMORY_FILE.to_owned()),
            (FileRole::DeviceState, DEVICE_STATE_FILE.to_owned()),
            (FileRole::Rootfs, ROOTFS_FILE.to_owned()),
        ],
    };
    let build = workshop.store.publish(staging, draft).await?;
    progress.finished(Outcome::Built);
    Ok(build)
}

/// The directory of sockets and console, removed however the work ends.
struct RunDir<'a>(&'a Path);

/// Ends the VM that a killed builder left in its [`Workshop::run_dir`]. Its network
/// slot and its staged files are cleaned by the pool's and the store's own start.
pub fn end_leftovers(run_dir: &Path) {
    let marker = format!("{}/", run_dir.display());
    for pid in hearth_machine::processes::naming(&marker) {
        tracing::info!(pid, "end the VM of an interrupted template build");
        if let Err(error) = hearth_machine::processes::end(pid) {
            tracing::warn!(pid, %error, "cannot end it");
        }
    }
}

impl Drop for RunDir<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

/// VM processes outlive their daemon by design; this one must not outlive a build
/// that is given up. After an orderly stop there is nothing left to end.
struct EndOnDrop(u32);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Err(error) = hearth_machine::processes::end(self.0) {
            tracing::warn!(pid = self.0, %error, "cannot end a template's VM");
        }
    }
}

/// Once more, upon a clean disk, where the guest hangs in early boot.
async fn in_slot(
    spec: &TemplateSpec,
    workshop: Workshop<'_>,
    slot: &Slot,
    staging: &Path,
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    let first = BootLimits::first(BOOT_LIMIT);
    match attempt(spec, workshop, slot, staging, first, progress).await {
        Err(error @ Error::Silent { .. }) => {
            tracing::warn!(template = spec.name, %error, "boot a template's guest once more");
            progress.step("booting it once more: the first guest fell silent");
        }
        other => return other,
    }
    let layer = staging.join(BOOT_LAYER);
    std::fs::remove_dir_all(&layer).map_err(Error::io("remove", layer))?;
    let memory = staging.join(MEMORY_FILE);
    std::fs::remove_file(&memory).map_err(Error::io("remove", memory))?;
    let last = BootLimits::last(BOOT_LIMIT);
    attempt(spec, workshop, slot, staging, last, progress).await
}

async fn attempt(
    spec: &TemplateSpec,
    workshop: Workshop<'_>,
    slot: &Slot,
    staging: &Path,
    limits: BootLimits,
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    let run_dir = workshop.run_dir;
    make_run_dir(run_dir, slot.uid)?;
    let layer = staging.join(BOOT_LAYER);
    let config = DeviceConfig {
        base: Some(spec.rootfs.clone()),
        layers: Vec::new(),
        writable: Some(WritableConfig {
            directory: layer.clone(),
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes: spec.shape.disk_mib << 20,
    };
    let device = blocking(move || Ok(Arc::new(Device::create(&config)?))).await?;
    let socket = ServerConfig {
        owner: Some((slot.uid, slot.uid)),
        admission: {
            let cgroup = cgroup_name(slot);
            server::Admission::by(move |pid| hearth_confine::is_member(&cgroup, pid))
        },
        ..ServerConfig::new(run_dir.join("nbd.sock"), EXPORT)
    };
    let server = server::serve(&socket, Arc::clone(&device))?;

    progress.step("booting a microVM");
    let boot = boot_spec(spec, slot, run_dir, staging);
    let result = match workshop.engine.boot(boot).await {
        Ok(machine) => {
            let _guard = EndOnDrop(machine.pid());
            let guest = Guest {
                machine: machine.as_ref(),
                agent: Agent::new(slot.host_address),
                console: run_dir.join("console.log"),
            };
            let saved = bring_up_and_save(spec, &guest, limits, staging, progress).await;
            let stopped = machine.stop().await;
            saved.and(stopped.map_err(Error::from))
        }
        Err(error) => Err(error.into()),
    };
    server.stop().await;
    result?;

    progress.step("copying the disk out");
    let rootfs = staging.join(ROOTFS_FILE);
    let memory = staging.join(MEMORY_FILE);
    blocking(move || {
        copy_out(&device, &rootfs)?;
        drop(device);
        std::fs::remove_dir_all(&layer).map_err(Error::io("remove", &layer))?;
        let file = File::options().read(true).write(true).open(&memory);
        let file = file.map_err(Error::io("open", &memory))?;
        sparse::punch_zeros(&file).map_err(Error::io("free the zeros of", &memory))?;
        Ok(())
    })
    .await
}

/// A template's guest while it is up.
struct Guest<'a> {
    machine: &'a dyn Machine,
    agent: Agent,
    console: PathBuf,
}

async fn bring_up_and_save(
    spec: &TemplateSpec,
    guest: &Guest<'_>,
    limits: BootLimits,
    staging: &Path,
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    let Guest {
        machine,
        agent,
        console,
    } = guest;
    tokio::select! {
        ready = warmup::wait_for_agent(console, agent, limits) => ready,
        why = machine.exited() => Err(Error::Guest { what: format!("the VM ended: {why}"), console: String::new() }),
    }
    .map_err(|error| with_console(error, console))?;
    // Its connections are not to be part of what is saved: they end with it.
    warmup::run(agent, &spec.warm_up, progress)
        .await
        .map_err(|error| with_console(error, console))?;
    progress.step("saving memory and devices");
    machine.pause().await?;
    machine
        .save(SaveTarget {
            device_state: staging.join(DEVICE_STATE_FILE),
        })
        .await?;
    Ok(())
}

fn cgroup_name(slot: &Slot) -> String {
    format!("hearth-template-{}", slot.index)
}

fn boot_spec(spec: &TemplateSpec, slot: &Slot, run_dir: &Path, staging: &Path) -> BootSpec {
    let memory_bytes = spec.shape.memory_mib << 20;
    BootSpec {
        id: format!("template-{}", spec.name),
        run_dir: run_dir.to_owned(),
        shape: VmShape {
            vcpus: spec.shape.vcpus,
            memory_bytes,
        },
        kernel: spec.kernel.clone(),
        initramfs: spec.initramfs.clone(),
        cmdline_extra: String::new(),
        memory_file: staging.join(MEMORY_FILE),
        disk: DiskAttachment {
            nbd_socket: run_dir.join("nbd.sock"),
            export: EXPORT.to_owned(),
        },
        network: Some(NetworkAttachment {
            netns: slot.netns_path.clone(),
            tap: slot.tap.clone(),
            mac: slot.mac,
        }),
        confinement: Some(Confinement {
            netns: Some(slot.netns_path.clone()),
            uid: slot.uid,
            gid: slot.uid,
            cgroup_name: Some(cgroup_name(slot)),
            memory_limit_bytes: Some(memory_bytes + OVERHEAD_BYTES),
            ..Confinement::default()
        }),
    }
}

fn make_run_dir(path: &Path, uid: u32) -> Result<(), Error> {
    if path.exists() {
        std::fs::remove_dir_all(path).map_err(Error::io("remove", path))?;
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(Error::io("make", path))?;
    std::os::unix::fs::chown(path, Some(uid), Some(uid)).map_err(Error::io("give away", path))
}

/// Writes what the device reads as to a new file, with holes for its zeros.
///
/// # Errors
/// When the device cannot be read or the file not be written.
pub fn copy_out(device: &Device, path: &Path) -> Result<(), Error> {
    let file = File::create_new(path).map_err(Error::io("make", path))?;
    let size = device.size_bytes();
    file.set_len(size).map_err(Error::io("size", path))?;
    let mut buffer = vec![0; usize::try_from(COPY_BYTES).expect("a mebibyte fits")];
    let mut offset = 0;
    while offset < size {
        let extents = device.extents(offset, (size - offset).min(1 << 30), 1024)?;
        for extent in &extents {
            let mut at = extent.range.start;
            let end = extent.range.end;
            while !extent.is_zero && at < end {
                let length = usize::try_from(COPY_BYTES.min(end - at)).expect("at most a mebibyte");
                let part = &mut buffer[..length];
                device.read(at, part)?;
                if !sparse::is_zero(part) {
                    file.write_all_at(part, at)
                        .map_err(Error::io("write", path))?;
                }
                at += length as u64;
            }
            offset = end;
        }
    }
    sparse::punch_zeros(&file).map_err(Error::io("free the zeros of", path))?;
    Ok(())
}

/// Processor features that a guest under KVM has seen, and a host must have.
///
/// # Errors
/// When the host's features cannot be read.
pub fn host_features(accelerator: Accelerator) -> Result<Vec<String>, Error> {
    if accelerator == Accelerator::Tcg {
        return Ok(Vec::new());
    }
    let path = Path::new("/proc/cpuinfo");
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let flags = text
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let mut features: Vec<String> = flags
        .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    features.sort();
    Ok(features)
}

fn with_console(error: Error, console: &Path) -> Error {
    let text = std::fs::read(console).unwrap_or_default();
    let console = console_tail(&String::from_utf8_lossy(&text));
    match error {
        Error::Guest { what, .. } => Error::Guest { what, console },
        other => other,
    }
}

/// The last lines of a console.
pub(crate) fn console_tail(text: &str) -> String {
    const KEPT: usize = 20;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(KEPT)..].join("\n")
}
