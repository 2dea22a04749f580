//! The Firecracker engine: VMs under KVM, told what to do over HTTP.
//!
//! | step | how |
//! |---|---|
//! | boot | the process is configured and started through its API; memory is its own |
//! | save | a snapshot: device state, and memory to the boot's memory file, or what was written since the restore to the scratch file |
//! | restore | a fresh process loads the device state and maps the memory file privately |
//!
//! What it has open it has opened by itself, so its jail holds what it needs, at fixed
//! places: a device state names the disk's path, and the disk of a restored VM is another
//! one. Files that no place in the jail fits, because their directory is not known to it
//! or not its own, are inherited and opened as `/proc/self/fd/N`.
//!
//! Each step of Firecracker's own jailer is met by [`hearth_confine`]: control group,
//! network namespace, new PID and mount namespaces with a root that holds only what is
//! listed, user and group, resource limits, closed descriptors, empty environment. Beside
//! the filters of system calls that Firecracker installs for its threads stands ours of
//! the start-up.
//!
//! Needs `/dev/kvm` to be open to its group: the process gets that group, and no other.

mod api;
mod config;
mod dirty;
mod jail;
mod launch;
mod machine;
mod version;

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use async_trait::async_trait;

use crate::accelerator::Accelerator;
use crate::launch::{Supervised, owned};
use crate::{
    BootSpec, Capabilities, DiskKind, Engine, Error, GuestCpu, Machine, MachineRecord, RestoreSpec,
    host,
};

pub use config::{ENGINE, FirecrackerConfig};
pub use jail::check_device;
use launch::Running;
use machine::FirecrackerMachine;
pub use version::{MINIMUM as MINIMUM_VERSION, find};

/// How long a VM that is adopted may take to answer. One that waits for its disk does not
/// before it is adopted.
const ADOPTION_LIMIT: Duration = Duration::from_secs(5);
/// How the program's file name begins, by which VM processes are told from others.
const PROGRAM_PREFIX: &str = "firecracker";

/// The engine.
#[derive(Debug)]
pub struct FirecrackerEngine {
    config: FirecrackerConfig,
    version: String,
}

/// With its version and its program.
impl fmt::Display for FirecrackerEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, program) = (&self.version, self.config.program.display());
        write!(formatter, "{ENGINE} {version} ({program})")
    }
}

impl FirecrackerEngine {
    /// Checks that the program runs and is not too old. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn new(mut config: FirecrackerConfig) -> Result<Self, Error> {
        // In the jail there is only the program, not what leads to it.
        if let Ok(program) = config.program.canonicalize() {
            config.program = program;
        }
        let named = config.program.file_name().unwrap_or_default();
        let version = if named.as_bytes().starts_with(PROGRAM_PREFIX.as_bytes()) {
            version::of(&config.program)
        } else {
            Err(format!(
                "its file name does not begin with `{PROGRAM_PREFIX}`, by which its processes are \
                 found again"
            ))
        };
        match version {
            Ok(version) => Ok(Self { config, version }),
            Err(reason) => Err(Error::Program {
                program: config.program,
                reason,
            }),
        }
    }
}

#[async_trait]
impl Engine for FirecrackerEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: ENGINE,
            version: self.version.clone(),
            accelerator: Accelerator::Kvm,
            cpu: GuestCpu {
                model: "host".to_owned(),
                features: host::cpu_features().clone(),
            },
            disk: DiskKind::BlockDevice,
            memory_pieces: false,
        }
    }

    async fn boot(&self, spec: BootSpec) -> Result<Box<dyn Machine>, Error> {
        let config = self.config.clone();
        owned(async move {
            let (running, boot) =
                launch::start(move || launch::prepare_boot(&config, &spec)).await?;
            finish(running, async |running| boot.run(running).await).await
        })
        .await
    }

    async fn restore(&self, spec: RestoreSpec) -> Result<Box<dyn Machine>, Error> {
        let config = self.config.clone();
        owned(async move {
            let (running, load) =
                launch::start(move || launch::prepare_restore(&config, &spec)).await?;
            finish(running, async |running| load.run(running).await).await
        })
        .await
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Box<dyn Machine>, Error> {
        let vm = Supervised::adopt(record, ENGINE, &[])?;
        let running = Running::of(vm);
        // Not finish(): a VM that cannot be adopted now is not ours to kill.
        let asked = running.instance(ADOPTION_LIMIT).await;
        let version = match (asked, &running.vm.record.engine_version) {
            (Ok(instance), _) => instance.vmm_version,
            // It does one thing after the other, and waits for its disk, which is served
            // after the adoption.
            (Err(Error::Timeout { .. }), Some(version)) => {
                let (id, pid) = (&running.vm.record.id, running.vm.process.pid());
                tracing::warn!(id, pid, "adopted a VM whose API does not answer yet");
                version.clone()
            }
            (Err(error), _) => return Err(error),
        };
        Ok(Box::new(FirecrackerMachine::new(running, version)))
    }
}

/// Takes the last stage, and hands out the process or kills it and cleans up.
async fn finish(
    mut running: Running,
    stage: impl AsyncFnOnce(&mut Running) -> Result<(), Error>,
) -> Result<FirecrackerMachine, Error> {
    let staged = async {
        let instance = running.ready().await?;
        running.vm.limited().await?;
        stage(&mut running).await?;
        Ok(instance.vmm_version)
    };
    match staged.await {
        Ok(version) => {
            running.vm.keep();
            running.vm.record.engine_version = Some(version.clone());
            Ok(FirecrackerMachine::new(running, version))
        }
        Err(error) => {
            running.undo().await;
            Err(error)
        }
    }
}
