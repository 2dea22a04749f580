//! Makes the guest artefacts and, with an engine on this host, the `base`
//! template, saying what it does: the inner loop of work on this crate.
//!
//! ```text
//! base <state directory> <agent> [<run directory>]
//! ```
//!
//! Without a run directory it stops after the artefacts. Needs root.

use hearth_builder::{ArtefactConfig, Event, Progress, RootfsConfig, TemplateSpec, Workshop};
use hearth_machine::{
    Engine,
    qemu::{self, QemuConfig, QemuEngine},
};
use hearth_network::{NetworkConfig, SlotPool, TapOwner};
use hearth_snapshot::{LocalStore, Shape};
use std::{path::PathBuf, sync::Arc, time::Instant};

/// User that finds out what guests run on.
const UID: u32 = 829_999;

struct Lines(Instant);

impl Progress for Lines {
    fn event(&self, event: Event<'_>) {
        let seconds = self.0.elapsed().as_secs_f64();
        match event {
            Event::Step { stage, text } => println!("{seconds:7.2} {stage}: {text}"),
            Event::Finished { stage, outcome } => println!("{seconds:7.2} {stage}: {outcome:?}"),
            Event::Advanced { .. } => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(state), Some(agent)) = (arguments.next(), arguments.next()) else {
        return Err("usage: base <state directory> <agent> [<run directory>]".into());
    };
    let progress = Lines(Instant::now());
    let shape = Shape {
        vcpus: 2,
        memory_mib: 512,
        disk_mib: 4096,
    };
    let config = ArtefactConfig {
        directory: state.join("artefacts"),
        cache: std::env::var_os("HEARTH_CACHE_DIR").map(PathBuf::from),
        agent,
        rootfs: RootfsConfig {
            disk_mib: shape.disk_mib,
            nameservers: hearth_network::guest_nameservers(),
        },
    };
    let artefacts = hearth_builder::artefacts(&config, &progress).await?;
    println!("{artefacts:#?}");
    let Some(run_dir) = arguments.next() else {
        return Ok(());
    };
    let engine = tokio::task::spawn_blocking(|| {
        let accelerator = qemu::probe(qemu::PROGRAM.as_ref(), UID);
        QemuEngine::new(QemuConfig::new(accelerator))
    })
    .await??;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let spec = TemplateSpec::base(artefacts, "example", shape, &engine.capabilities());
    let store = LocalStore::open(state.join("builds"))?;
    if let Some(build) =
        hearth_builder::find(&store, &spec, &hearth_microvm::host(&engine.capabilities())).await?
    {
        println!("{}", build.directory().display());
        return Ok(());
    }
    let network = NetworkConfig {
        pool_size: 1,
        state_dir: state.clone(),
        tap_owner: TapOwner::Fixed(UID),
        ..NetworkConfig::default()
    };
    let slots = SlotPool::start(network, &[]).await?;
    let workshop = Workshop {
        engine: &engine,
        slots: &slots,
        store: &store,
        run_dir: &run_dir,
    };
    let made = hearth_builder::snapshot(&spec, workshop, &progress).await;
    slots.shutdown(&[]).await?;
    println!("{:#?}", made?.manifest);
    Ok(())
}
