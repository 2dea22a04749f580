//! The end of a build: a fresh boot, the start command, the ready command's
//! yes, and then memory, devices and disk, kept together as a build.

use crate::{
    Failure, Part,
    cache::State,
    log::Level,
    run::{Ready, Run},
    settle,
    shell::{self, Output, Place},
    steps::Stack,
    vm::{SavedDisk, Vm},
};
use hearth_agent_client::{Command, CommandEvent, CommandStream};
use hearth_block::Device;
use hearth_builder::copy_out;
use hearth_snapshot::{
    Build, Component, DEVICE_STATE_FILE, Digest, Draft, FileRole, Inputs, Kind, Lease, MEMORY_FILE,
    Manifest, ROOTFS_FILE, Shape, Staging, StartCommand, TemplateDetails, sparse,
};
use std::{fs::File, sync::Arc, time::Duration};

const PART: Part = Part::Finalize;
/// Changes whenever results are made differently from the same steps.
const RECIPE: &str = "2";
/// What waits for a start command that has no ready command of its own.
const DEFAULT_READY: &str = "sleep 20";
const READY: &str = "Template is ready";
/// Pause between two questions whether the template is ready.
const READY_INTERVAL: Duration = Duration::from_secs(1);
/// How long one ready command may take.
const READY_CALL: Duration = Duration::from_secs(120);

pub(crate) async fn run(run: &Run<'_>, stack: Stack) -> Result<Ready, Failure> {
    let start = start_command(run, &stack);
    let key = key(run, stack.state, start.as_ref())?;
    if !stack.forced
        && let Some((build, _lease)) = find(run, key).await?
    {
        run.log.add(Some(PART), Level::Info, "CACHED [finalize]");
        let ready = reuse(run, &build).await?;
        run.log.add(Some(PART), Level::Info, READY);
        return Ok(ready);
    }
    let store = &run.shared.store;
    let staging = store
        .stage(run.spec.build_id)
        .await
        .map_err(Failure::of(PART, "make room for the result"))?;
    run.log
        .add(Some(PART), Level::Info, "[finalize] booting the template");
    let memory = staging.directory().join(MEMORY_FILE);
    let writable = run.work.join("final");
    let vm = run.boot(&stack, writable, memory, PART).await?;
    bring_up(run, &stack, start.as_ref(), &vm).await?;
    run.log
        .add(Some(PART), Level::Info, "[finalize] saving the template");
    let saved = vm.save(&staging.directory().join(DEVICE_STATE_FILE)).await;
    let SavedDisk {
        device,
        agent_version,
    } = saved.map_err(Failure::of(PART, "save the template"))?;
    keep_disk(run, device, &staging).await?;
    let context = stack.context.clone();
    let details = TemplateDetails {
        user: context.user,
        workdir: context.workdir,
        env: context.env,
        start,
    };
    details
        .save(staging.directory())
        .map_err(Failure::of(PART, "keep the template"))?;
    let draft = draft(run, &stack, key, &agent_version)?;
    let build = store
        .publish(staging, draft)
        .await
        .map_err(Failure::of(PART, "keep the template"))?;
    Ok(ready(&build.manifest))
}

fn ready(manifest: &Manifest) -> Ready {
    Ready {
        disk_mib: manifest.shape.disk_mib,
        envd_version: manifest.inputs.agent.version.clone(),
    }
}

/// What the template starts: what its author says, else what the template below it
/// starts, as whom and where that one does. A ready command alone goes with an
/// inherited start command.
fn start_command(run: &Run<'_>, stack: &Stack) -> Option<StartCommand> {
    let own = |command: Option<&String>| StartCommand {
        command: command.cloned(),
        ready: run.spec.ready_command.clone(),
        user: stack.context.user.clone(),
        workdir: stack.context.workdir.clone(),
    };
    match (
        &run.spec.start_command,
        &run.spec.ready_command,
        &stack.start,
    ) {
        (Some(command), _, _) => Some(own(Some(command))),
        (None, Some(ready), Some(inherited)) => Some(StartCommand {
            ready: Some(ready.clone()),
            ..inherited.clone()
        }),
        (None, Some(_), None) => Some(own(None)),
        (None, None, inherited) => inherited.clone(),
    }
}

fn key(run: &Run<'_>, state: State, start: Option<&StartCommand>) -> Result<Digest, Failure> {
    let capabilities = run.shared.engine.capabilities();
    let guest = &run.shared.config.guest;
    let spec = run.spec;
    Ok(state.key(&[
        "finalize",
        RECIPE,
        &serde_json::to_string(&start).map_err(Failure::of(PART, "describe the template"))?,
        &format!("{} {}", spec.vcpus, spec.memory_mib),
        &guest.kernel_component.blake3.to_string(),
        &guest.initramfs_component.blake3.to_string(),
        &format!("{} {}", capabilities.engine, capabilities.version),
        &capabilities.cpu.model,
        run.shared.config.ca_bundle.as_deref().unwrap_or_default(),
    ]))
}

/// A result that was made from exactly the same, which stays while it is taken over.
async fn find(run: &Run<'_>, key: Digest) -> Result<Option<(Build, Lease)>, Failure> {
    let store = &run.shared.store;
    // Another processor of the same model may lack what a build was saved with.
    let here = hearth_microvm::host(&run.shared.engine.capabilities());
    let manifests = store
        .list()
        .await
        .map_err(Failure::of(PART, "look through the builds"))?;
    let found = manifests.into_iter().rev().find(|manifest| {
        manifest.kind == Kind::Template
            && manifest.inputs.key == key
            && manifest.runs_on(&here).is_ok()
    });
    match found {
        // One that was removed meanwhile is as good as none.
        Some(manifest) => {
            let lease = store.lease(manifest.build_id);
            let build = store.open(manifest.build_id).await.ok();
            Ok(build.map(|build| (build, lease)))
        }
        None => Ok(None),
    }
}

/// The same files under another id: they are never changed, so both builds may
/// have them.
async fn reuse(run: &Run<'_>, build: &Build) -> Result<Ready, Failure> {
    let store = &run.shared.store;
    let staging = store
        .stage(run.spec.build_id)
        .await
        .map_err(Failure::of(PART, "make room for the result"))?;
    let entries = std::fs::read_dir(build.directory())
        .map_err(Failure::of(PART, "take over the cached template"))?;
    for entry in entries {
        let entry = entry.map_err(Failure::of(PART, "take over the cached template"))?;
        if entry.file_name() != hearth_snapshot::MANIFEST_FILE {
            std::fs::hard_link(entry.path(), staging.directory().join(entry.file_name()))
                .map_err(Failure::of(PART, "take over the cached template"))?;
        }
    }
    let manifest = &build.manifest;
    let draft = Draft {
        kind: manifest.kind,
        name: Some(run.spec.template_id.clone()),
        shape: manifest.shape,
        engine: manifest.engine.clone(),
        cpu: manifest.cpu.clone(),
        inputs: manifest.inputs.clone(),
        parents: manifest.parents.clone(),
        files: manifest
            .files
            .iter()
            .map(|entry| (entry.role, entry.name.clone()))
            .collect(),
    };
    let build = store
        .publish(staging, draft)
        .await
        .map_err(Failure::of(PART, "keep the template"))?;
    Ok(ready(&build.manifest))
}

/// Start command, ready command, and everything out of the caches on disk.
async fn bring_up(
    run: &Run<'_>,
    stack: &Stack,
    start: Option<&StartCommand>,
    vm: &Vm,
) -> Result<(), Failure> {
    let say = |text: &str| run.log.add(Some(PART), Level::Info, text);
    if let Some(start) = start {
        settle::settle(run, stack, vm, false).await?;
        let place = Place {
            user: &start.user,
            workdir: &start.workdir,
            env: &stack.context.env,
        };
        let started = match &start.command {
            None => None,
            Some(line) => {
                say(&format!("Running start command: {line}"));
                let started = vm.client().start(place.line(line)).await;
                Some(started.map_err(|error| Failure::at(PART, shell::refusal(&error)))?)
            }
        };
        let line = start.ready.as_deref().unwrap_or(DEFAULT_READY);
        say(&format!("Waiting for template to be ready: {line}"));
        wait_until_ready(run, vm, &place, started, line).await?;
    }
    // What every first command of a sandbox touches is then in its memory.
    let line = Place::of(&stack.context).line("true");
    let (exit, last) = shell::run(run, vm, PART, line).await?;
    if exit.code != 0 {
        let text = shell::unsuccessful("bash -l -c true", &exit, &last);
        return Err(Failure::at(PART, text));
    }
    settle::settle(run, stack, vm, true).await?;
    say(READY);
    Ok(())
}

/// Asks until the answer is yes, logging what the start command writes
/// meanwhile. One that fails before that fails the build.
async fn wait_until_ready(
    run: &Run<'_>,
    vm: &Vm,
    place: &Place<'_>,
    mut started: Option<CommandStream>,
    line: &str,
) -> Result<(), Failure> {
    let limit = run.shared.config.limits.ready_time;
    let mut output = Output::new(run.log, PART, "start".to_owned());
    let deadline = tokio::time::sleep(limit);
    let asking = ask(vm, || place.line(line));
    tokio::pin!(deadline, asking);
    loop {
        tokio::select! {
            answer = &mut asking => {
                return answer.map_err(|why| Failure::at(PART, format!("the ready command: {why}")));
            }
            event = next(&mut started), if started.is_some() => match event {
                Ok(event) => {
                    if let Some(exit) = event.and_then(|event| output.take(event)) {
                        started = None;
                        // One that goes to the background ends well.
                        if exit.code != 0 {
                            return Err(Failure::at(PART, format!("the start command ended: {}", exit.status)));
                        }
                    }
                }
                Err(why) => return Err(Failure::at(PART, format!("the start command: {why}"))),
            },
            why = vm.ended() => {
                return Err(Failure::at(PART, format!("the template's microVM ended: {why}")));
            }
            () = &mut deadline => {
                let text = format!("the ready command did not succeed within {} s: {line}", limit.as_secs());
                return Err(Failure::at(PART, text));
            }
        }
    }
}

async fn next(started: &mut Option<CommandStream>) -> Result<Option<CommandEvent>, String> {
    match started {
        Some(stream) => stream.next().await.map_err(|error| shell::refusal(&error)),
        None => std::future::pending().await,
    }
}

async fn ask(vm: &Vm, command: impl Fn() -> Command) -> Result<(), String> {
    loop {
        if shell::succeeds(vm, command().timeout(READY_CALL))
            .await
            .unwrap_or(false)
        {
            return Ok(());
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

async fn keep_disk(run: &Run<'_>, device: Arc<Device>, staging: &Staging) -> Result<(), Failure> {
    let rootfs = staging.directory().join(ROOTFS_FILE);
    let memory = staging.directory().join(MEMORY_FILE);
    let kept = run
        .tasks
        .spawn_blocking(move || {
            copy_out(&device, &rootfs).map_err(|error| crate::error::chain(&error))?;
            let thinned = File::options()
                .read(true)
                .write(true)
                .open(&memory)
                .and_then(|file| sparse::punch_zeros(&file));
            thinned.map(drop).map_err(|error| error.to_string())
        })
        .await;
    match kept {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(Failure::at(
            PART,
            format!("keep the template's disk: {why}"),
        )),
        Err(error) => Err(Failure::at(
            PART,
            format!("keep the template's disk: {error}"),
        )),
    }
}

fn draft(run: &Run<'_>, stack: &Stack, key: Digest, version: &str) -> Result<Draft, Failure> {
    let host = hearth_microvm::host(&run.shared.engine.capabilities());
    let guest = &run.shared.config.guest;
    Ok(Draft {
        kind: Kind::Template,
        // Not the template's name: that of one of ours must not be taken for ours.
        name: Some(run.spec.template_id.clone()),
        shape: Shape {
            vcpus: run.spec.vcpus,
            memory_mib: run.spec.memory_mib,
            disk_mib: stack.size_bytes >> 20,
        },
        engine: host.engine,
        cpu: host.cpu,
        inputs: Inputs {
            kernel: guest.kernel_component.clone(),
            initramfs: guest.initramfs_component.clone(),
            agent: Component::new(version, guest.agent_component.blake3),
            rootfs: Component::new("template", key),
            key,
        },
        parents: Vec::new(),
        files: vec![
            (FileRole::Memory, MEMORY_FILE.to_owned()),
            (FileRole::DeviceState, DEVICE_STATE_FILE.to_owned()),
            (FileRole::Rootfs, ROOTFS_FILE.to_owned()),
        ],
    })
}
