//! From nothing to templates that can be started, and their entries in the store.
//! `hearth up` prepares `base`, `hearth template prepare` any; the daemon publishes
//! what is prepared when it starts, and when it was asked to prepare it.

use super::{
    engine, make_state_dir, network_config,
    recipes::{Recipe, Wanted},
};
use crate::{guest_programs::GuestProgram, settings::Settings};
use anyhow::{Context, bail};
use hearth_builder::{
    ArtefactConfig, Artefacts, INTERPRETER_TEMPLATE, InterpreterConfig, Progress, RootfsConfig,
    TemplateSpec, Workshop,
};
use hearth_control::{Control, TemplatePublication};
use hearth_ids::{BuildId, TeamId};
use hearth_machine::Engine;
use hearth_network::{NetworkConfig, SlotPool};
use hearth_snapshot::{Build, BuildCache, Host, LocalStore, Manifest, Shape};
use std::sync::Arc;

const BASE: &str = "base";

/// Where a template is made, and with what.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub engine: &'a Arc<dyn Engine>,
    pub store: &'a LocalStore,
    /// The running daemon's; without one, the pool is this work's own.
    pub slots: Option<&'a SlotPool>,
}

/// Makes whatever is missing for `base`. The caller holds the daemon's lock.
pub async fn prepare(settings: &Settings, progress: &dyn Progress) -> anyhow::Result<()> {
    let wanted = Wanted {
        recipe: Recipe::Base,
        anew: false,
    };
    alone(settings, wanted, progress).await
}

/// Makes whatever is missing for a template. The caller holds the daemon's lock.
pub async fn alone(
    settings: &Settings,
    wanted: Wanted,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    make_state_dir(settings)?;
    let engine = engine::start(settings).await?;
    let store = LocalStore::open(settings.builds_dir())?;
    let place = Place {
        engine: &engine,
        store: &store,
        slots: None,
    };
    ensure(settings, wanted, place, progress).await
}

/// What a template's machines boot from.
struct Ingredients {
    artefacts: Artefacts,
    agent_version: String,
    shape: Shape,
}

/// Makes whatever is missing of what a template's machines boot from. That touches
/// no machine: a running daemon may be beside.
pub async fn image(
    settings: &Settings,
    recipe: Recipe,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    make_state_dir(settings)?;
    ingredients(settings, recipe, progress).await.map(drop)
}

async fn ingredients(
    settings: &Settings,
    recipe: Recipe,
    progress: &dyn Progress,
) -> anyhow::Result<Ingredients> {
    let shape = shape(settings, recipe);
    let (config, agent_version) = artefact_config(settings, shape)?;
    let artefacts = match recipe.edition() {
        None => hearth_builder::artefacts(&config, progress)
            .await
            .context("prepare the guest")?,
        Some(edition) => {
            let interpreter = InterpreterConfig {
                server: GuestProgram::CodeInterpreter.locate(settings)?,
                edition,
            };
            hearth_builder::interpreter_artefacts(&config, &interpreter, progress)
                .await
                .context("prepare the code interpreter's guest")?
        }
    };
    Ok(Ingredients {
        artefacts,
        agent_version,
        shape,
    })
}

/// Finds the template's build, in the store or the cache, or makes it.
pub async fn ensure(
    settings: &Settings,
    wanted: Wanted,
    place: Place<'_>,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let Ingredients {
        artefacts,
        agent_version,
        shape,
    } = ingredients(settings, wanted.recipe, progress).await?;
    let capabilities = place.engine.capabilities();
    let spec = match wanted.recipe {
        Recipe::Base => {
            hearth_template_build::Guest::of(&artefacts, &agent_version)
                .save(&settings.guest_file())
                .context("note what guests boot from")?;
            TemplateSpec::base(artefacts, &agent_version, shape, &capabilities)
        }
        Recipe::CodeInterpreter | Recipe::CodeInterpreterSmall => {
            TemplateSpec::interpreter(artefacts, &agent_version, shape, &capabilities)
        }
    };
    let here = hearth_microvm::host(&capabilities);
    if wanted.anew {
        return make(settings, place, &spec, progress).await.map(drop);
    }
    if hearth_builder::find(place.store, &spec, &here)
        .await?
        .is_some()
    {
        return Ok(());
    }
    let cache = LocalStore::open(settings.cached_builds_dir())?;
    if let Some(cached) = hearth_builder::find(&cache, &spec, &here).await? {
        hearth_builder::copy(&cached, place.store, progress).await?;
        return Ok(());
    }
    let build = make(settings, place, &spec, progress).await?;
    hearth_builder::copy(&build, &cache, &hearth_builder::Silent)
        .await
        .context("keep the template in the cache")?;
    Ok(())
}

fn artefact_config(settings: &Settings, shape: Shape) -> anyhow::Result<(ArtefactConfig, String)> {
    let agent = GuestProgram::Agent.locate(settings)?;
    let agent_version = agent_version(&agent)?;
    let config = ArtefactConfig {
        directory: settings.artefacts_dir(),
        cache: Some(settings.cache_dir.clone()),
        agent,
        rootfs: RootfsConfig {
            disk_mib: shape.disk_mib,
            nameservers: hearth_network::guest_nameservers(),
        },
    };
    Ok((config, agent_version))
}

async fn make(
    settings: &Settings,
    place: Place<'_>,
    spec: &TemplateSpec,
    progress: &dyn Progress,
) -> anyhow::Result<Build> {
    let run_dir = settings.preparation_sockets_dir();
    let in_pool = |slots| Workshop {
        engine: place.engine,
        slots,
        store: place.store,
        run_dir: &run_dir,
    };
    let made = match place.slots {
        Some(slots) => {
            check_memory(settings, spec)?;
            hearth_builder::snapshot(spec, in_pool(slots), progress).await
        }
        None => {
            // One slot, for the VM that becomes the template.
            let network = NetworkConfig {
                pool_size: 1,
                ..network_config(settings)?
            };
            let slots = SlotPool::start(network, &[])
                .await
                .context("prepare the network")?;
            let made = hearth_builder::snapshot(spec, in_pool(&slots), progress).await;
            slots.shutdown(&[]).await.context("clean up the network")?;
            made
        }
    };
    made.with_context(|| format!("make the template {}", spec.name))
}

/// Sandboxes that run are not to pay for the template's machine.
fn check_memory(settings: &Settings, spec: &TemplateSpec) -> anyhow::Result<()> {
    let free = hearth_template_build::free_memory().context("measure this machine's memory")?;
    let reserve = settings.node.memory_reserve_mib << 20;
    if free < (spec.shape.memory_mib << 20).saturating_add(reserve) {
        bail!(
            "the template's microVM needs {} MiB of memory beside the {} MiB that are kept free",
            spec.shape.memory_mib,
            settings.node.memory_reserve_mib
        );
    }
    Ok(())
}

/// Ends the VMs of a preparation and of template builds that were killed. Before their
/// network is cleaned.
///
/// # Errors
/// When the records of builds' VMs cannot be looked through.
pub fn end_leftovers(settings: &Settings) -> anyhow::Result<()> {
    hearth_microvm::end_leftovers(&settings.preparation_sockets_dir());
    let (state, run) = (settings.templates_dir(), settings.build_sockets_dir());
    hearth_template_build::end_leftovers(&state, &run).context("end what template builds left")
}

/// Names the newest builds of prepared templates in the store, for every team.
/// `base` must be there.
pub async fn publish_all(
    settings: &Settings,
    control: &Control,
    team: TeamId,
    here: &Host,
) -> anyhow::Result<()> {
    let store = LocalStore::open(settings.builds_dir())?;
    let publishing = Publishing {
        store: &store,
        control,
        team,
        here,
    };
    if publish(publishing, BASE).await?.is_none() {
        bail!("the base template is not prepared: run `hearth up` or `hearth up --prepare-only`");
    }
    publish(publishing, INTERPRETER_TEMPLATE).await?;
    Ok(())
}

/// Where prepared templates are named, and where they are to run.
#[derive(Clone, Copy)]
pub struct Publishing<'a> {
    pub store: &'a dyn BuildCache,
    pub control: &'a Control,
    pub team: TeamId,
    pub here: &'a Host,
}

/// Names the newest build of a prepared template, of those that run here where there are
/// any; `None` when there is none.
pub async fn publish(publishing: Publishing<'_>, name: &str) -> anyhow::Result<Option<BuildId>> {
    let manifests = publishing.store.list().await?;
    let of_name = || {
        let found = manifests.iter().rev();
        found.filter(|found| found.name.as_deref() == Some(name))
    };
    let newest = of_name()
        .find(|found| found.runs_on(publishing.here).is_ok())
        .or_else(|| of_name().next());
    let Some(manifest) = newest else {
        return Ok(None);
    };
    publish_one(publishing.control, publishing.team, name, manifest)
        .await
        .with_context(|| format!("publish the template {name}"))?;
    Ok(Some(manifest.build_id))
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

fn shape(settings: &Settings, recipe: Recipe) -> Shape {
    match recipe {
        Recipe::Base => {
            let wanted = &settings.template;
            Shape {
                vcpus: wanted.vcpus,
                memory_mib: wanted.memory_mib.into(),
                disk_mib: wanted.disk_mib.into(),
            }
        }
        Recipe::CodeInterpreter | Recipe::CodeInterpreterSmall => {
            let wanted = &settings.code_interpreter;
            Shape {
                vcpus: wanted.vcpus,
                memory_mib: wanted.memory_mib.into(),
                disk_mib: wanted.disk_mib.into(),
            }
        }
    }
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
