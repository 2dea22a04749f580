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
    warmup,
};
use hearth_block::Device;
use hearth_ids::BuildId;
use hearth_machine::{Capabilities, Engine, VmShape};
use hearth_microvm::{
    AgentReady, Boot, BootLimits, Disk, Failed, Journal, Kernel, Lifetime, Opening, Owner, SlotHeld,
};
use hearth_network::SlotPool;
use hearth_snapshot::{
    Build, BuildCache, Component, DEVICE_STATE_FILE, Digest, Draft, FileRole, Host, Inputs, Kind,
    MEMORY_FILE, ROOTFS_FILE, Shape, TemplateDetails, sparse,
};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_util::task::TaskTracker;

/// What the guest writes while it comes up.
const BOOT_LAYER: &str = "boot-layer";
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
            capabilities.cpu.model.clone(),
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

/// The newest build in the store that was made from exactly these inputs and goes on on
/// this host: another processor of the same model may lack what the build was saved with.
///
/// # Errors
/// When the store cannot be read.
pub async fn find(
    store: &dyn BuildCache,
    spec: &TemplateSpec,
    here: &Host,
) -> Result<Option<Build>, Error> {
    let manifests = store.list().await?;
    let found = manifests.into_iter().rev().find(|manifest| {
        manifest.inputs.key == spec.inputs.key
            && manifest.name.as_deref() == Some(spec.name.as_str())
            && manifest.runs_on(here).is_ok()
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
pub async fn copy(
    from: &Build,
    to: &dyn BuildCache,
    progress: &dyn Progress,
) -> Result<Build, Error> {
    let progress = StageProgress::new(progress, Stage::Snapshot);
    progress.step("copying from the cache");
    let build = to.import(from).await?;
    progress.finished(Outcome::FromCache);
    Ok(build)
}

/// Where the work happens and with what.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    pub engine: &'a Arc<dyn Engine>,
    pub slots: &'a SlotPool,
    pub store: &'a dyn BuildCache,
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
    hearth_microvm::end_leftovers(workshop.run_dir);
    let staging = workshop.store.stage(BuildId::random()).await?;
    Box::pin(make(spec, workshop, staging.directory(), progress)).await?;

    progress.step("storing the build");
    let details = staging.directory();
    spec.details
        .save(details)
        .map_err(Error::io("describe the template in", details))?;
    let host = hearth_microvm::host(&workshop.engine.capabilities());
    let draft = Draft {
        kind: Kind::Template,
        name: Some(spec.name.clone()),
        shape: spec.shape,
        engine: host.engine,
        cpu: host.cpu,
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

/// The memory, devices and disk of a VM that was booted, warmed up and ended.
async fn make(
    spec: &TemplateSpec,
    workshop: Workshop<'_>,
    staging: &Path,
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    // Should this be given up, the VM ends at once, and the rest as far as there is time.
    let lifetime = Lifetime::Scoped(TaskTracker::new());
    let run_dir = workshop.run_dir.to_owned();
    let held = SlotHeld::acquire(workshop.slots, &Owner::Build, run_dir, lifetime).await?;
    progress.step("booting a microVM");
    let boot = boot(spec, staging);
    let mut journal = BootProgress { spec, progress };
    let ready = match hearth_microvm::boot(held, workshop.engine, &boot, &mut journal).await {
        Ok(ready) => ready,
        Err(failed) => {
            let Failed { error, held } = *failed;
            if let Err(error) = held.release().await {
                tracing::error!(%error, "release a template's VM failed");
            }
            return Err(error.into());
        }
    };
    let device = ready.vm.disk().map(|disk| Arc::clone(&disk.device));
    let device = device.expect("a VM that was booted here has its disk");
    let saved = warm_up_and_save(spec, &ready, staging, progress).await;
    let released = ready.vm.release().await;
    saved?;
    released?;

    progress.step("copying the disk out");
    let rootfs = staging.join(ROOTFS_FILE);
    let memory = boot.guest.memory_file;
    let layer = boot.disk.writable;
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

/// The VM does not outlive whoever makes the template: nothing is written down, but a
/// second boot is reported.
struct BootProgress<'a> {
    spec: &'a TemplateSpec,
    progress: StageProgress<'a>,
}

impl Journal for BootProgress<'_> {
    fn boots_again(&mut self, silent: &hearth_microvm::Error) {
        let template = &self.spec.name;
        tracing::warn!(template, error = %silent, "boot a template's guest once more");
        let text = "booting it once more: the first guest did not come up";
        self.progress.step(text);
    }
}

fn boot(spec: &TemplateSpec, staging: &Path) -> Boot {
    Boot {
        disk: Disk {
            image: spec.rootfs.clone(),
            layers: Vec::new(),
            writable: staging.join(BOOT_LAYER),
            opening: Opening::Create,
            limit_bytes: None,
            reserve_bytes: 0,
            io: hearth_block::IoLimits::default(),
            size_bytes: spec.shape.disk_mib << 20,
        },
        guest: Kernel {
            name: format!("template-{}", spec.name),
            shape: VmShape {
                vcpus: spec.shape.vcpus,
                memory_bytes: spec.shape.memory_mib << 20,
            },
            kernel: spec.kernel.clone(),
            initramfs: spec.initramfs.clone(),
            memory_file: staging.join(MEMORY_FILE),
        },
        limits: BootLimits::BUILD,
    }
}

async fn warm_up_and_save(
    spec: &TemplateSpec,
    ready: &AgentReady,
    staging: &Path,
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    // Its connections are not to be part of what is saved: they end with it.
    let warmed = tokio::select! {
        warmed = warmup::run(&ready.agent, &spec.warm_up, progress) => warmed,
        why = ready.vm.machine().exited() => Err(Error::Guest {
            what: format!("the VM ended: {why}"),
            console: String::new(),
        }),
    };
    warmed.map_err(|error| match error {
        Error::Guest { what, .. } => Error::Guest {
            what,
            console: ready.vm.console_tail(),
        },
        other => other,
    })?;
    progress.step("saving memory and devices");
    Ok(ready.vm.save(&staging.join(DEVICE_STATE_FILE)).await?)
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
