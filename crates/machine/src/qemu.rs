//! The QEMU engine: microvm machines under KVM or TCG.
//!
//! | step | how |
//! |---|---|
//! | boot | PVH kernel, memory in a file mapped shared, so that the file is the memory image |
//! | save | device state without memory, written to a descriptor that we open |
//! | restore | the same command line, the memory file mapped privately, device state loaded |
//!
//! A start goes through stages, each undone when a later one fails:
//! [`crate::launch::Prepared`] (sockets and files open, nothing runs) →
//! [`launch::Running`] (the process runs and is watched) → connected → loaded → [`machine::QemuMachine`]. A start that is cancelled by
//! its caller is finished in its own task and then stopped, so that no VM is ever without
//! an owner.
//!
//! QEMU has no right of its own to any of the VM's files. It inherits descriptors for
//! memory, device state, TAP device, KVM device, console and monitor; only the disk's socket it must
//! be able to reach by path, because it connects again when the disk server comes back.

mod command;
mod filter;
mod jail;
mod launch;
mod machine;
mod overlay;
mod preload;
mod trial;
mod tsc;

pub(crate) use filter::start_up as start_up_filter;
pub use trial::probe;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::broadcast;

use crate::accelerator::Accelerator;
use crate::launch::{Supervised, owned};
use crate::qmp::{Event, Qmp};
use crate::{
    BootSpec, Capabilities, Console, DiskKind, Engine, Error, GuestCpu, Machine, MachineRecord,
    RestoreSpec, host,
};

use launch::Running;
use machine::QemuMachine;

/// Name of this engine in capabilities and records.
pub const ENGINE: &str = "qemu";

/// Debian's and Ubuntu's QEMU.
pub const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";

/// How long QEMU may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long an adoption waits for the monitor.
const ADOPTION_LIMIT: Duration = Duration::from_secs(2);
/// How long loading a device state may take.
const LOAD_LIMIT: Duration = Duration::from_secs(30);
/// What a restore waits for longest.
const LOADED: &str = "the device state to be loaded";

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// The executable.
    pub program: PathBuf,
    /// What guests run on, from [`probe`].
    pub accelerator: Accelerator,
    /// Where the console of a restored VM goes. That of a booted one goes to a file.
    pub restored_console: Console,
}

impl QemuConfig {
    /// Debian's and Ubuntu's QEMU.
    #[must_use]
    pub fn new(accelerator: Accelerator) -> Self {
        Self {
            program: PathBuf::from(PROGRAM),
            accelerator,
            restored_console: Console::Null,
        }
    }
}

/// The engine.
#[derive(Debug)]
pub struct QemuEngine {
    config: QemuConfig,
    version: String,
    preload: OwnedFd,
    /// The filters for the end of QEMU's set-up, and their length in bytes.
    filters: (OwnedFd, usize),
    limits: jail::Limits,
}

impl QemuEngine {
    /// Checks that the program runs and asks its version. Blocks for some 50 ms.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn new(config: QemuConfig) -> Result<Self, Error> {
        let version = version(&config.program).map_err(|reason| Error::Program {
            program: config.program.clone(),
            reason,
        })?;
        let preload =
            preload::create().map_err(Error::io("make the anonymous file", "hearth-open-fd"))?;
        let filters = filter::table(&config.accelerator)
            .map_err(Error::io("make the anonymous file", "hearth-filters"))?;
        Ok(Self {
            config,
            version,
            preload,
            filters,
            limits: jail::Limits::detect(),
        })
    }

    fn context(&self) -> Result<launch::Context, Error> {
        let preload = self
            .preload
            .try_clone()
            .map_err(Error::io("duplicate the descriptor of", "hearth-open-fd"))?;
        let filters = self
            .filters
            .0
            .try_clone()
            .map_err(Error::io("duplicate the descriptor of", "hearth-filters"))?;
        Ok(launch::Context {
            config: self.config.clone(),
            version: self.version.clone(),
            preload,
            filters: (filters, self.filters.1),
            limits: self.limits,
        })
    }
}

#[async_trait]
impl Engine for QemuEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            engine: ENGINE,
            version: self.version.clone(),
            cpu: cpu(&self.config.accelerator),
            accelerator: self.config.accelerator.clone(),
            disk: DiskKind::NbdSocket,
            memory_pieces: true,
        }
    }

    async fn boot(&self, spec: BootSpec) -> Result<Box<dyn Machine>, Error> {
        let context = self.context()?;
        owned(async move {
            let mut running = launch::start(move || launch::prepare_boot(&context, &spec)).await?;
            let stage = run(&mut running).await;
            finish(running, stage).await
        })
        .await
    }

    async fn restore(&self, spec: RestoreSpec) -> Result<Box<dyn Machine>, Error> {
        let context = self.context()?;
        owned(async move {
            let resume = spec.resume;
            let mut running =
                launch::start(move || launch::prepare_restore(&context, &spec)).await?;
            let stage = load(&mut running, resume).await;
            finish(running, stage).await
        })
        .await
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Box<dyn Machine>, Error> {
        let vm = Supervised::adopt(record, ENGINE, launch::HARMLESS)?;
        let socket = &vm.record.control_socket;
        let qmp = Qmp::connect(socket)
            .await
            .map_err(Error::io("connect to", socket))?;
        let running = Running {
            vm,
            qmp,
            state: None,
        };
        // Not finish(): a VM that cannot be adopted now is not ours to kill.
        let opened = connect(&running, ADOPTION_LIMIT).await;
        match opened {
            // It takes commands in their order, this one first, once it does again. One that
            // was being stopped waits for its disk, which is served after the adoption.
            Err(Error::Timeout { .. }) => {
                let (id, pid) = (&running.vm.record.id, running.vm.process.pid());
                tracing::warn!(id, pid, "adopted a VM whose monitor does not answer yet");
            }
            opened => opened?,
        }
        Ok(Box::new(QemuMachine::new(running)))
    }
}

/// Hands out a process whose last stage went well, or kills it and cleans up.
async fn finish(mut running: Running, stage: Result<(), Error>) -> Result<QemuMachine, Error> {
    match stage {
        Ok(()) => {
            running.vm.keep();
            Ok(QemuMachine::new(running))
        }
        Err(error) => {
            running.vm.undo().await;
            Err(error)
        }
    }
}

/// Opens the monitor for commands.
async fn connect(running: &Running, limit: Duration) -> Result<(), Error> {
    let pending = running.qmp.send("qmp_capabilities", json!(null)).await;
    running
        .answer("qmp_capabilities", pending, limit)
        .await
        .map(drop)
}

/// Lets a VM that is about to boot run.
async fn run(running: &mut Running) -> Result<(), Error> {
    connect(running, START_LIMIT).await?;
    running.vm.limited().await?;
    let pending = running.qmp.send("cont", json!(null)).await;
    running.answer("cont", pending, START_LIMIT).await.map(drop)
}

/// Loads the device state, and lets the guest run if wanted. The commands are sent at
/// once: QEMU takes them one after the other as soon as it listens.
async fn load(running: &mut Running, resume: bool) -> Result<(), Error> {
    let mut events = running.qmp.events();
    let state = running
        .state
        .map(|descriptor| format!("fd:{descriptor}"))
        .ok_or_else(|| Error::InvalidSpec("no device state".to_owned()))?;
    let capabilities = json!([{ "capability": "events", "state": true }]);
    let ready = running.qmp.send("qmp_capabilities", json!(null)).await;
    let with_events = running
        .qmp
        .send(
            "migrate-set-capabilities",
            json!({ "capabilities": capabilities }),
        )
        .await;
    let incoming = running
        .qmp
        .send("migrate-incoming", json!({ "uri": state }))
        .await;
    running
        .answer("qmp_capabilities", ready, START_LIMIT)
        .await?;
    let answered = running.vm.since.elapsed();
    running
        .answer("migrate-set-capabilities", with_events, LOAD_LIMIT)
        .await?;
    running
        .answer("migrate-incoming", incoming, LOAD_LIMIT)
        .await?;
    if !running
        .vm
        .wait(LOADED, LOAD_LIMIT, migrated(&mut events))
        .await?
    {
        return Err(running
            .vm
            .last_words("migrate-incoming", "the device state does not load")
            .await);
    }
    let loaded = running.vm.since.elapsed();
    running.vm.limited().await?;
    if resume {
        let pending = running.qmp.send("cont", json!(null)).await;
        running.answer("cont", pending, START_LIMIT).await?;
    }
    tracing::debug!(
        id = running.vm.record.id,
        pid = running.vm.record.pid,
        ?answered,
        ?loaded,
        done = ?running.vm.since.elapsed(),
        "restored, times since the process was started"
    );
    Ok(())
}

/// Waits for the event that tells whether the load went well.
async fn migrated(events: &mut broadcast::Receiver<Event>) -> bool {
    loop {
        match events.recv().await {
            Ok(Event { name, data }) if name == "MIGRATION" => match data["status"].as_str() {
                Some("completed") => return true,
                Some("failed") => return false,
                _ => {}
            },
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            // The process is about to be found dead by whoever waits beside us.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// The processor that guests see.
fn cpu(accelerator: &Accelerator) -> GuestCpu {
    match accelerator {
        Accelerator::Kvm => GuestCpu {
            model: command::HOST_CPU.to_owned(),
            features: host::cpu_features().clone(),
        },
        Accelerator::Tcg { .. } => GuestCpu {
            model: command::EMULATED_CPU.to_owned(),
            features: Default::default(),
        },
    }
}

/// What the program says of its version, or why it says nothing. Blocks for some 50 ms.
fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| "it does not tell its version".to_owned())
}

/// The version in the first line of `qemu-system-x86_64 --version`.
fn parse_version(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("version ")?;
    let version = rest.split_ascii_whitespace().next()?;
    version
        .starts_with(|c: char| c.is_ascii_digit())
        .then(|| version.to_owned())
}

#[cfg(test)]
mod tests;
