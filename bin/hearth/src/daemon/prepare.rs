//! From nothing to templates that can be started, and their entries in the store.
//! `hearth up` prepares `base`, `hearth template prepare` others; the daemon
//! publishes what is prepared when it starts.

use super::{engine, make_state_dir, network_config};
use crate::settings::Settings;
use anyhow::{Context, bail};
use hearth_builder::{
    ArtefactConfig, Edition, INTERPRETER_TEMPLATE, InterpreterConfig, Progress, RootfsConfig,
    TemplateSpec, Workshop,
};
use hearth_control::{Control, TemplatePublication};
use hearth_ids::TeamId;
use hearth_machine::Engine;
use hearth_network::{NetworkConfig, SlotPool};
use hearth_snapshot::{ArtefactStore, Build, LocalStore, Manifest, Shape};
use std::path::PathBuf;

const BASE: &str = "base";

/// Makes whatever is missing for `base`. The caller holds the daemon's lock.
pub async fn prepare(settings: &Settings, progress: &dyn Progress) -> anyhow::Result<()> {
    make_state_dir(settings)?;
    let engine = engine(settings).await?;
    let shape = shape(settings);
    let (config, agent_version) = artefact_config(settings, shape)?;
    let artefacts = hearth_builder::artefacts(&config, progress)
        .await
        .context("prepare the guest")?;
    hearth_template_build::Guest::of(&artefacts, &agent_version)
        .save(&settings.guest_file())
        .context("note what guests boot from")?;
    let capabilities = engine.capabilities();
    let spec = TemplateSpec::base(artefacts, &agent_version, shape, &capabilities);
    ensure(settings, &engine, &spec, progress).await
}

/// Makes whatever is missing for the code interpreter's template, or only its root
/// file system. The caller holds the daemon's lock.
pub async fn code_interpreter(
    settings: &Settings,
    edition: Edition,
    image_only: bool,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    make_state_dir(settings)?;
    let wanted = &settings.code_interpreter;
    let shape = Shape {
        vcpus: wanted.vcpus,
        memory_mib: wanted.memory_mib.into(),
        disk_mib: wanted.disk_mib.into(),
    };
    let (config, agent_version) = artefact_config(settings, shape)?;
    let server = settings.interpreter.clone();
    let interpreter = InterpreterConfig {
        server: program(server, "code-interpreter", "HEARTH_CODE_INTERPRETER")?,
        edition,
    };
    let artefacts = hearth_builder::interpreter_artefacts(&config, &interpreter, progress)
        .await
        .context("prepare the code interpreter's guest")?;
    if image_only {
        return Ok(());
    }
    let engine = engine(settings).await?;
    let capabilities = engine.capabilities();
    let spec = TemplateSpec::interpreter(artefacts, &agent_version, shape, &capabilities);
    ensure(settings, &engine, &spec, progress).await
}

fn artefact_config(settings: &Settings, shape: Shape) -> anyhow::Result<(ArtefactConfig, String)> {
    let agent = program(settings.agent.clone(), "envd", "HEARTH_ENVD")?;
    let agent_version = agent_version(&agent)?;
    let config = ArtefactConfig {
        directory: settings.state_dir.join("artefacts"),
        cache: Some(settings.cache_dir.clone()),
        agent,
        rootfs: RootfsConfig {
            disk_mib: shape.disk_mib,
            nameservers: hearth_network::guest_nameservers(),
        },
    };
    Ok((config, agent_version))
}

/// Finds the template's build, in the store or the cache, or makes it.
async fn ensure(
    settings: &Settings,
    engine: &dyn Engine,
    spec: &TemplateSpec,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let store = LocalStore::open(settings.builds_dir())?;
    if hearth_builder::find(&store, spec).await?.is_some() {
        return Ok(());
    }
    let cache = LocalStore::open(settings.cache_dir.join("builds"))?;
    if let Some(cached) = hearth_builder::find(&cache, spec).await? {
        hearth_builder::copy(&cached, &store, progress).await?;
        return Ok(());
    }
    let build = make(settings, engine, &store, spec, progress).await?;
    hearth_builder::copy(&build, &cache, &hearth_builder::Silent)
        .await
        .context("keep the template in the cache")?;
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
    made.with_context(|| format!("make the template {}", spec.name))
}

/// Names the newest builds of prepared templates in the store, for every team.
/// `base` must be there.
pub async fn publish(settings: &Settings, control: &Control, team: TeamId) -> anyhow::Result<()> {
    let store = LocalStore::open(settings.builds_dir())?;
    let manifests = store.list().await?;
    for name in [BASE, INTERPRETER_TEMPLATE] {
        let newest = manifests
            .iter()
            .rev()
            .find(|found| found.name.as_deref() == Some(name));
        match newest {
            Some(manifest) => publish_one(control, team, name, manifest)
                .await
                .with_context(|| format!("publish the template {name}"))?,
            None if name == BASE => bail!(
                "the base template is not prepared: run `hearth up` or `hearth up --prepare-only`"
            ),
            None => {}
        }
    }
    Ok(())
}

async fn publish_one(
    control: &Control,
    team: TeamId,
    name: &str,
    manifest: &Manifest,
) -> anyhow::Result<()> {
    let shape = manifest.shape;
    let mib = |value: u64| u32::try_from(value).context("the template is too large");
    control
        .template_publish(TemplatePublication {
            team,
            namespace: String::new(),
            alias: name.to_owned(),
            public: true,
            is_default: true,
            tag: hearth_ids::DEFAULT_TAG.to_owned(),
            build_id: manifest.build_id,
            vcpus: shape.vcpus,
            memory_mib: mib(shape.memory_mib)?,
            disk_mib: mib(shape.disk_mib)?,
            envd_version: manifest.inputs.agent.version.clone(),
        })
        .await?;
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

/// A program for guests: as set, else beside this program.
fn program(set: Option<PathBuf>, name: &str, variable: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = set {
        return Ok(path);
    }
    let beside = std::env::current_exe()?.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    bail!("{name} is not beside this program; name it with {variable} or in hearth.toml")
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
