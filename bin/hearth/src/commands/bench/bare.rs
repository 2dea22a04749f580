//! The baseline: the base template's snapshot restored by the engine alone, from
//! the start of QEMU's process to a guest that runs. No daemon, agent or pool.

use crate::{daemon, settings::Settings};
use anyhow::Context;
use hearth_block::{
    Device, DeviceConfig, WritableConfig,
    server::{self, ServerConfig},
};
use hearth_client::bench::Samples;
use hearth_machine::{
    DiskAttachment, Engine, MemoryOverlay, NetworkAttachment, RestoreSpec, VmShape,
};
use hearth_snapshot::{Build, BuildCache, Kind, LocalStore};
use std::{path::Path, sync::Arc, time::Instant};

const EXPORT: &str = "root";

/// Restores the newest base build `runs` times, one after another.
pub async fn restores(settings: &Settings, runs: usize) -> anyhow::Result<Samples> {
    let store = LocalStore::open(settings.builds_dir())?;
    let mut builds = store.list().await?.into_iter();
    let newest = builds
        .rfind(|manifest| manifest.kind == Kind::Template && manifest.parents.is_empty())
        .context("no build is prepared: run `hearth up`")?;
    let build = store.open(newest.build_id).await?;
    let engine = daemon::engine(settings).await?;
    let work = settings.run_dir.join("bench");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&work)?;
    let namespace = hearth_network::scratch::Namespace::create("hearth-bench").await?;
    let mut samples = Samples::default();
    for run in 0..runs {
        let dir = work.join(run.to_string());
        std::fs::create_dir(&dir)?;
        samples.push(restore(&engine, &build, &dir, &namespace).await?);
    }
    drop(namespace);
    std::fs::remove_dir_all(&work)?;
    Ok(samples)
}

async fn restore(
    engine: &dyn Engine,
    build: &Build,
    dir: &Path,
    namespace: &hearth_network::scratch::Namespace,
) -> anyhow::Result<std::time::Duration> {
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
        memory_file: build.memory_path(),
        memory_overlay: MemoryOverlay::default(),
        device_state: build.device_state_path(),
        disk: DiskAttachment {
            nbd_socket: socket,
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
    let took = begun.elapsed();
    machine.stop().await?;
    server.stop().await;
    Ok(took)
}
