//! From nothing to a `base` template that can be started, and its entry in the
//! store. `hearth up` prepares; the daemon publishes what is prepared.

use super::{engine, make_state_dir, network_config};
use crate::settings::Settings;
use anyhow::{Context, bail};
use hearth_builder::{ArtefactConfig, Progress, RootfsConfig, TemplateSpec, Workshop};
use hearth_control::{Control, TemplatePublication};
use hearth_ids::TeamId;
use hearth_machine::Engine;
use hearth_network::{NetworkConfig, SlotPool};
use hearth_snapshot::{ArtefactStore, Build, LocalStore, Shape};
use std::path::PathBuf;

const BASE: &str = "base";

/// Makes whatever is missing. The caller holds the daemon's lock.
pub async fn prepare(settings: &Settings, progress: &dyn Progress) -> anyhow::Result<()> {
    make_state_dir(settings)?;
    let engine = engine(settings).await?;
    let shape = shape(settings);
    let nameservers = hearth_network::guest_nameservers();
    let agent = agent(settings)?;
    let agent_version = agent_version(&agent)?;
    let config = ArtefactConfig {
        directory: settings.state_dir.join("artefacts"),
        cache: Some(settings.cache_dir.clone()),
        agent,
        rootfs: RootfsConfig {
            disk_mib: shape.disk_mib,
            nameservers,
        },
    };
    let artefacts = hearth_builder::artefacts(&config, progress)
        .await
        .context("prepare the guest")?;
    let capabilities = engine.capabilities();
    let spec = TemplateSpec::base(artefacts, &agent_version, shape, &capabilities);
    let store = LocalStore::open(settings.builds_dir())?;
    if hearth_builder::find(&store, &spec).await?.is_some() {
        return Ok(());
    }
    let cache = LocalStore::open(settings.cache_dir.join("builds"))?;
    if let Some(cached) = hearth_builder::find(&cache, &spec).await? {
        hearth_builder::copy(&cached, &store, progress).await?;
        return Ok(());
    }
    let build = make(settings, &engine, &store, &spec, progress).await?;
    hearth_builder::copy(&build, &cache, &hearth_builder::Silent)
        .await
        .context("keep the base template in the cache")?;
    Ok(())
}

async fn make(
    settings: &Settings,
    engine: &dyn Engine,
    store: &LocalStore,
    spec: &TemplateSpec,
    progress: &dyn Progress,
) -> anyhow::Result<Build> {
    // One slot, for the VM that becomes the template.
    let network = NetworkConfig {
        pool_size: 1,
        ..network_config(settings)?
    };
    let slots = SlotPool::start(network, &[])
        .await
        .context("prepare the network")?;
    let run_dir = settings.run_dir.join("template");
    let workshop = Workshop {
        engine,
        slots: &slots,
        store,
        run_dir: &run_dir,
    };
    let made = hearth_builder::snapshot(spec, workshop, progress).await;
    slots.shutdown(&[]).await.context("clean up the network")?;
    made.context("make the base template")
}

/// Names the newest prepared build `base` in the store, for every team.
pub async fn publish(settings: &Settings, control: &Control, team: TeamId) -> anyhow::Result<()> {
    let store = LocalStore::open(settings.builds_dir())?;
    let manifests = store.list().await?;
    let Some(newest) = manifests
        .iter()
        .rev()
        .find(|found| found.name.as_deref() == Some(BASE))
    else {
        bail!("the base template is not prepared: run `hearth up` or `hearth up --prepare-only`");
    };
    let shape = newest.shape;
    let mib = |value: u64| u32::try_from(value).context("the template is too large");
    control
        .template_publish(TemplatePublication {
            team,
            namespace: String::new(),
            alias: BASE.to_owned(),
            public: true,
            is_default: true,
            tag: hearth_ids::DEFAULT_TAG.to_owned(),
            build_id: newest.build_id,
            vcpus: shape.vcpus,
            memory_mib: mib(shape.memory_mib)?,
            disk_mib: mib(shape.disk_mib)?,
            envd_version: newest.inputs.agent.version.clone(),
        })
        .await
        .context("publish the base template")?;
    Ok(())
}

fn shape(settings: &Settings) -> Shape {
    let template = &settings.template;
    Shape {
        vcpus: template.vcpus,
        memory_mib: template.memory_mib.into(),
        disk_mib: template.disk_mib.into(),
    }
}

/// The guest agent: as set, else beside this program.
fn agent(settings: &Settings) -> anyhow::Result<PathBuf> {
    if let Some(agent) = &settings.agent {
        return Ok(agent.clone());
    }
    let beside = std::env::current_exe()?.with_file_name("envd");
    if beside.is_file() {
        return Ok(beside);
    }
    bail!(
        "the guest agent is not beside this program; name it with HEARTH_ENVD or `agent` in hearth.toml"
    )
}

fn agent_version(agent: &std::path::Path) -> anyhow::Result<String> {
    let output = std::process::Command::new(agent)
        .arg("--version")
        .output()
        .with_context(|| format!("run the guest agent {}", agent.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || version.is_empty() {
        bail!("{} does not tell its version", agent.display());
    }
    Ok(version)
}
