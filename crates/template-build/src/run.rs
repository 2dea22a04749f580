//! One build from its source to its result.
//!
//! ```text
//!  source ─▶ steps (cached layers, then a VM) ─▶ fresh boot ─▶ start command
//!                                          ─▶ ready command ─▶ memory and disk kept
//! ```
//!
//! The result always comes of a fresh boot, never of the VM in which the steps
//! ran: what a sandbox finds in memory is then the same whether steps came from
//! the cache or not, and nothing of the steps' processes is left in it.

use crate::{
    BuildSpec, Context, Failure, Part, Source,
    cache::State,
    error::chain,
    finalize, image,
    log::{Level, Log},
    modules,
    shared::Shared,
    steps::{self, Stack, Workbench},
    vm::{BootRequest, Vm},
};
use hearth_agent_client::Init;
use hearth_ids::BuildId;
use hearth_microvm::{Disk, Opening};
use hearth_snapshot::TemplateDetails;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use tokio_util::task::TaskTracker;

pub(crate) const OUT_OF_DISK: &str = "the node is out of disk space";

/// What a finished build tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub disk_mib: u64,
    pub envd_version: String,
}

pub(crate) struct Run<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) spec: &'a BuildSpec,
    pub(crate) log: &'a Log,
    /// Tasks that give back what a dropped build held.
    pub(crate) tasks: &'a TaskTracker,
    /// Removed with all that is in it when the build is over.
    pub(crate) work: PathBuf,
}

impl Run<'_> {
    /// The part as lines of the log begin with it.
    pub(crate) fn label(&self, part: Part) -> String {
        match part {
            Part::Step(number) => format!("builder {number}/{}", self.spec.steps.len()),
            Part::Base | Part::Finalize => part.to_string(),
        }
    }

    pub(crate) async fn to_end(&self) -> Result<Ready, Failure> {
        self.check_room()?;
        let mut bench = Workbench::default();
        let outcome = boxed(self.stack(&mut bench)).await;
        // Before the next VM: a build holds one at a time.
        bench.finish().await;
        boxed(finalize::run(self, outcome?)).await
    }

    /// Source and steps.
    async fn stack(&self, bench: &mut Workbench) -> Result<Stack, Failure> {
        let mut stack = boxed(self.source(bench)).await?;
        boxed(steps::run_all(self, &mut stack, bench)).await?;
        Ok(stack)
    }

    /// Bytes that builds may still take of the node's disk.
    pub(crate) fn free_disk(&self) -> Result<u64, Failure> {
        let stat = rustix::fs::statvfs(&self.shared.config.state_dir)
            .map_err(Failure::of(Part::Base, "measure the node's disk"))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        match free.checked_sub(self.shared.config.limits.disk_reserve_bytes) {
            Some(free) => Ok(free),
            None => Err(Failure::at(Part::Base, OUT_OF_DISK)),
        }
    }

    fn check_room(&self) -> Result<(), Failure> {
        let limits = &self.shared.config.limits;
        self.free_disk()?;
        let free = free_memory().map_err(Failure::of(Part::Base, "measure the node's memory"))?;
        if free < (self.spec.memory_mib << 20).saturating_add(limits.memory_reserve_bytes) {
            return Err(Failure::at(Part::Base, "the node is out of memory"));
        }
        Ok(())
    }

    /// What the first step builds upon.
    async fn source(&self, bench: &mut Workbench) -> Result<Stack, Failure> {
        let scope = self.spec.scope.as_str();
        let forced = self.spec.force;
        match &self.spec.source {
            Source::Build(id) => self.upon_build(*id).await,
            Source::Rootfs(source) => {
                let metadata = std::fs::metadata(&source.image)
                    .map_err(Failure::of(Part::Base, "read the root file system"))?;
                Ok(Stack {
                    image: source.image.clone(),
                    size_bytes: metadata.len(),
                    below: Vec::new(),
                    layers: Vec::new(),
                    _lease: None,
                    state: State::of(&["rootfs", scope, &source.key.to_string()]),
                    context: Context::default(),
                    start: None,
                    forced,
                })
            }
            Source::Image(source) => boxed(image::stack(self, source, bench)).await,
        }
    }

    async fn upon_build(&self, id: BuildId) -> Result<Stack, Failure> {
        let store = &self.shared.store;
        let lease = store.lease(id);
        let source = store
            .stack(id)
            .await
            .map_err(Failure::of(Part::Base, "open the template to build from"))?;
        let disk = source.disk;
        let directory = disk.image.parent().unwrap_or(Path::new("/"));
        let details = TemplateDetails::load(directory)
            .map_err(Failure::of(Part::Base, "read the template to build from"))?;
        let text = format!("[base] FROM template build {id}");
        self.log.add(Some(Part::Base), Level::Info, &text);
        Ok(Stack {
            image: disk.image,
            size_bytes: source.build.manifest.shape.disk_mib << 20,
            below: disk.layers,
            layers: Vec::new(),
            _lease: Some(lease),
            state: State::of(&["build", self.spec.scope.as_str(), &id.to_string()]),
            start: details.start,
            context: Context {
                user: details.user,
                workdir: details.workdir,
                env: details.env,
            },
            forced: self.spec.force,
        })
    }

    pub(crate) async fn boot(
        &self,
        stack: &Stack,
        writable: PathBuf,
        memory_file: PathBuf,
        part: Part,
    ) -> Result<Vm, Failure> {
        let context = &stack.context;
        let request = BootRequest {
            build: self.spec.build_id,
            disk: Disk {
                image: stack.image.clone(),
                layers: stack.layer_paths(),
                size_bytes: stack.size_bytes,
                writable,
                opening: Opening::Create,
                limit_bytes: Some(stack.size_bytes),
                reserve_bytes: self.shared.config.limits.disk_reserve_bytes,
                io: self.shared.config.limits.disk_io,
            },
            vcpus: self.spec.vcpus,
            memory_mib: self.spec.memory_mib,
            memory_file,
            init: Init {
                ca_bundle: self.shared.config.ca_bundle.as_deref(),
                ..Init::new(&context.user, &context.workdir)
            },
            log: self.log,
            part,
        };
        let booted = Vm::boot(self.shared, self.tasks, &request).await;
        let vm = booted.map_err(|error| {
            tracing::warn!(build = %self.spec.build_id, error = %chain(&error), "a build's VM failed");
            Failure::at(part, chain(&error))
        })?;
        if let Some(archive) = self.shared.config.guest.module_tree()
            && let Err(error) = modules::ensure(&vm, &archive).await
        {
            let text = modules::complaint(&error);
            self.log.add(Some(part), Level::Warn, &text);
        }
        Ok(vm)
    }
}

/// A trait object: the compiler cannot see that a long chain of futures is `Send`
/// when it has to look into all of it at once.
fn boxed<'a, T>(
    future: impl Future<Output = T> + Send + 'a,
) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(future)
}

/// `MemAvailable` of the host, in bytes.
///
/// # Errors
/// When the kernel does not tell.
pub fn free_memory() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib << 10)
        .ok_or_else(|| std::io::Error::other("/proc/meminfo lacks MemAvailable"))
}
