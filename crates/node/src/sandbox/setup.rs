//! The steps of a start. Each one that takes something journals it first or at
//! once after, so that a daemon killed between any two leaves nothing unknown.
//! A failed step leaves what was taken in [`Resources`], for the driver to give
//! back.

use super::resources::{Disk, Resources, run_dir_of};
use crate::{
    agent::{self, Init},
    config::AGENT_PORT,
    error::Error,
    journal::Record,
    node::Shared,
    spec::SandboxState,
};
use chrono::Utc;
use hearth_block::{
    Device, DeviceConfig, WritableConfig,
    server::{self, ServerConfig},
};
use hearth_confine::Confinement;
use hearth_ids::SandboxId;
use hearth_machine::{DiskAttachment, NetworkAttachment, RestoreSpec, VmShape};
use hearth_network::Slot;
use hearth_snapshot::Build;
use std::{net::SocketAddr, os::unix::fs::DirBuilderExt, path::PathBuf, sync::Arc};

/// Name of the NBD export of every sandbox's disk.
const EXPORT: &str = "root";
/// User and directory that the base template's commands run as and in.
const DEFAULT_USER: &str = "user";
const DEFAULT_WORKDIR: &str = "/home/user";
/// What a VM process may take beyond its guest's memory: QEMU, its translation
/// buffers, and page tables.
const OVERHEAD_BYTES: u64 = 192 << 20;

pub(crate) fn cgroup_name(id: &SandboxId) -> String {
    format!("hearth-{id}")
}

pub(crate) fn run_dir(shared: &Shared, id: &SandboxId) -> PathBuf {
    run_dir_of(&shared.config.run_dir, id)
}

pub(crate) async fn start(
    shared: &Shared,
    build: &Build,
    record: &mut Record,
    resources: &mut Resources,
) -> Result<(), Error> {
    let id = record.spec.sandbox_id.clone();
    shared
        .journals
        .create(record)
        .map_err(Error::step("write the sandbox's journal"))?;

    let slot = &*resources.slot.insert(acquire_slot(shared).await?);
    record.slot = Some(slot.index);
    if record.spec.allow_internet_access == Some(false) {
        shared
            .slots
            .set_internet(slot, false)
            .await
            .map_err(Error::step("close the sandbox's internet access"))?;
    }
    let run_dir = run_dir(shared, &id);
    resources.run_dir = Some(run_dir.clone());
    make_run_dir(&run_dir, slot.uid)?;
    shared
        .journals
        .write(record)
        .map_err(Error::step("write the sandbox's journal"))?;

    tracing::debug!(sandbox = %id, slot = slot.index, "slot taken");
    resources.disk = Some(open_disk(shared, build, &id, slot.uid).await?);
    tracing::debug!(sandbox = %id, "disk served");
    resources.cgroup = Some(cgroup_name(&id));
    let machine = shared
        .engine
        .restore(restore_spec(build, &id, slot, run_dir))
        .await
        .map_err(Error::step("restore the VM"))?;
    record.machine = Some(machine.record());
    resources.machine = Some(machine);
    tracing::debug!(sandbox = %id, "VM restored");
    shared
        .journals
        .write(record)
        .map_err(Error::step("write the sandbox's journal"))?;

    record.envd_version = greet_agent(shared, record, resources).await?;
    tracing::debug!(sandbox = %id, "agent set up");
    record.state = SandboxState::Running;
    shared
        .journals
        .write(record)
        .map_err(Error::step("write the sandbox's journal"))
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
    build: &Build,
    id: &SandboxId,
    uid: u32,
) -> Result<Disk, Error> {
    let config = DeviceConfig {
        base: Some(build.rootfs_path()),
        layers: Vec::new(),
        writable: Some(WritableConfig {
            directory: shared.journals.dir(id).join("disk"),
            limit_bytes: None,
        }),
        size_bytes: build.manifest.shape.disk_mib << 20,
    };
    let device = tokio::task::spawn_blocking(move || Device::open_or_create(&config))
        .await
        .map_err(Error::step("open the disk"))?
        .map_err(Error::step("open the disk"))?;
    let device = Arc::new(device);
    let socket = run_dir(shared, id).join("nbd.sock");
    let config = ServerConfig {
        owner: Some((uid, uid)),
        ..ServerConfig::new(socket, EXPORT)
    };
    let server =
        server::serve(&config, Arc::clone(&device)).map_err(Error::step("serve the disk"))?;
    Ok(Disk { device, server })
}

fn restore_spec(build: &Build, id: &SandboxId, slot: &Slot, run_dir: PathBuf) -> RestoreSpec {
    let shape = VmShape {
        vcpus: build.manifest.shape.vcpus,
        memory_bytes: build.manifest.shape.memory_mib << 20,
    };
    RestoreSpec {
        id: id.to_string(),
        disk: DiskAttachment {
            nbd_socket: run_dir.join("nbd.sock"),
            export: EXPORT.to_owned(),
        },
        run_dir,
        memory_file: build.memory_path(),
        device_state: build.device_state_path(),
        network: Some(NetworkAttachment {
            netns: slot.netns_path.clone(),
            tap: slot.tap.clone(),
            mac: slot.mac,
        }),
        confinement: Some(Confinement {
            netns: Some(slot.netns_path.clone()),
            uid: slot.uid,
            gid: slot.uid,
            cgroup_name: Some(cgroup_name(id)),
            memory_limit_bytes: Some(shape.memory_bytes + OVERHEAD_BYTES),
            ..Confinement::default()
        }),
        shape,
        resume: true,
    }
}

/// Hands the agent its settings; gives up early when the VM ends meanwhile.
async fn greet_agent(
    shared: &Shared,
    record: &Record,
    resources: &Resources,
) -> Result<String, Error> {
    let host = resources
        .address()
        .expect("the slot is taken before the VM is started");
    let spec = &record.spec;
    let settings = Init {
        env_vars: &spec.env_vars,
        access_token: &spec.envd_access_token,
        timestamp: Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
        default_user: DEFAULT_USER,
        default_workdir: DEFAULT_WORKDIR,
        hostname: spec.sandbox_id.as_str(),
        entropy: agent::entropy(),
        sandbox_id: spec.sandbox_id.as_str(),
        template_id: spec.template_id.as_str(),
    };
    let address = SocketAddr::from((host, AGENT_PORT));
    tokio::select! {
        answer = agent::init(address, &settings, shared.config.agent_timeout) => {
            answer.map_err(Error::step("hand the agent its settings"))
        }
        why = resources.vm_ended() => Err(Error::step("hand the agent its settings")(why)),
    }
}
