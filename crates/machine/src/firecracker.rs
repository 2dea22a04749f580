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

use async_trait::async_trait;

use crate::accelerator::Accelerator;
use crate::launch::{Supervised, owned};
use crate::{
    BootSpec, Capabilities, DiskKind, Engine, Error, GuestCpu, Machine, MachineRecord, RestoreSpec,
    host,
};

pub use config::{ENGINE, FirecrackerConfig};
use launch::Running;
use machine::FirecrackerMachine;
pub use version::{MINIMUM as MINIMUM_VERSION, find};

/// The engine.
#[derive(Debug)]
pub struct FirecrackerEngine {
    config: FirecrackerConfig,
    version: String,
}

impl FirecrackerEngine {
    /// Checks that the program runs and is not too old. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn new(config: FirecrackerConfig) -> Result<Self, Error> {
        let version = version::of(&config.program).map_err(|reason| Error::Program {
            program: config.program.clone(),
            reason,
        })?;
        Ok(Self { config, version })
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
        let instance = running.instance().await?;
        Ok(Box::new(FirecrackerMachine::new(
            running,
            instance.vmm_version,
        )))
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
            Ok(FirecrackerMachine::new(running, version))
        }
        Err(error) => {
            running.undo().await;
            Err(error)
        }
    }
}
