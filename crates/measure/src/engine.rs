//! The baseline: the base template's build restored by the engine alone, from the
//! start of the VM process to a guest that runs. No daemon, agent or pool.

use crate::Samples;
use anyhow::Context;
use hearth_block::{
    Device, DeviceConfig, WritableConfig,
    server::{self, ServerConfig},
};
use hearth_machine::{
    DiskAttachment, Engine, Machine, MemorySource, MemoryTarget, NetworkAttachment, RestoreSpec,
    SaveTarget, VmShape,
};
use hearth_network::scratch::Namespace;
use hearth_snapshot::{Build, BuildCache, Kind, LocalStore};
use std::{path::Path, sync::Arc, time::Instant};

const EXPORT: &str = "root";

/// What is measured of each restored VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// The restore.
    Restore,
    /// Also what ends a VM that is to be restored again: pause and save, the search for
    /// the memory that it wrote, and the stop.
    Save,
}

/// Times of the stages; of those that the plan leaves out there are none.
#[derive(Debug, Default)]
pub struct Stages {
    /// From the start of the VM process to a guest that runs.
    pub restore: Samples,
    /// Pause of the guest, and its devices' state in a file.
    pub pause_and_save: Samples,
    /// Search for the memory that the VM has written.
    pub find_written: Samples,
    /// End of the VM process and all that it had.
    pub stop: Samples,
}

/// Restores the newest base build of the store in `builds` `runs` times, one after
/// another. `work` is emptied and removed.
///
/// # Errors
/// When no base build is prepared, or the engine or the network refuses: it needs root.
pub async fn restores(
    engine: &dyn Engine,
    builds: &Path,
    work: &Path,
    runs: usize,
    plan: Plan,
) -> anyhow::Result<Stages> {
    let store = LocalStore::open(builds)?;
    let mut known = store.list().await?.into_iter();
    let newest = known
        .rfind(|manifest| manifest.kind == Kind::Template && manifest.parents.is_empty())
        .context("no build is prepared: run `hearth up`")?;
    let build = store.open(newest.build_id).await?;
    let _ = std::fs::remove_dir_all(work);
    std::fs::create_dir_all(work)?;
    let namespace = Namespace::create("hearth-bench").await?;
    let mut stages = Stages::default();
    for run in 0..runs {
        let dir = work.join(run.to_string());
        std::fs::create_dir(&dir)?;
        restore(engine, &build, &dir, &namespace, plan, &mut stages).await?;
    }
    drop(namespace);
    std::fs::remove_dir_all(work)?;
    Ok(stages)
}

async fn restore(
    engine: &dyn Engine,
    build: &Build,
    dir: &Path,
    namespace: &Namespace,
    plan: Plan,
    stages: &mut Stages,
) -> anyhow::Result<()> {
    let shape = build.manifest.shape;
    let device = Arc::new(Device::create(&DeviceConfig {
        base: Some(build.rootfs_path()),
        layers: Vec::new(),
        writable: Some(WritableConfig {
            directory: dir.join("disk"),
            limit_bytes: None,
            reserve_bytes: 0,
        }),
        size_bytes: shape.disk_mib << 20,
    })?);
    let socket = dir.join("nbd.sock");
    let server = server::serve(&ServerConfig::new(&socket, EXPORT), device)?;
    let spec = RestoreSpec {
        id: "bench".to_owned(),
        run_dir: dir.to_owned(),
        shape: VmShape {
            vcpus: shape.vcpus,
            memory_bytes: shape.memory_mib << 20,
        },
        memory: MemorySource::Image(build.memory_path()),
        scratch: dir.join("scratch"),
        device_state: build.device_state_path(),
        disk: DiskAttachment::NbdSocket {
            socket,
            export: EXPORT.to_owned(),
        },
        network: Some(NetworkAttachment {
            netns: namespace.path().to_owned(),
            tap: namespace.tap().to_owned(),
            mac: namespace.mac(),
        }),
        confinement: None,
        resume: true,
    };
    let begun = Instant::now();
    let machine = engine.restore(spec).await.context("restore the snapshot")?;
    stages.restore.push(begun.elapsed());
    if plan == Plan::Save {
        save(machine.as_ref(), dir, stages).await?;
    }
    let begun = Instant::now();
    machine.stop().await?;
    if plan == Plan::Save {
        stages.stop.push(begun.elapsed());
    }
    server.stop().await;
    Ok(())
}

async fn save(machine: &dyn Machine, dir: &Path, stages: &mut Stages) -> anyhow::Result<()> {
    let begun = Instant::now();
    machine.pause().await?;
    let target = SaveTarget {
        device_state: dir.join("device-state"),
        memory: MemoryTarget::Difference,
    };
    machine.save(target).await?;
    stages.pause_and_save.push(begun.elapsed());
    let begun = Instant::now();
    machine.dirty_memory().await?;
    stages.find_written.push(begun.elapsed());
    Ok(())
}
