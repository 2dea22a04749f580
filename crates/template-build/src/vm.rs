//! The microVM of a build: booted from a stack of disk layers, held like a
//! sandbox's, and gone, with all that it took, however the build ends.
//!
//! It goes in order: the process first, then the disk's server, its directory,
//! and last the network slot. A build that is given up half-way leaves that to a
//! task, which whoever gave it up can wait for.

use crate::shared::Shared;
use hearth_agent_client::{Agent, AgentClient, Init, Operation};
use hearth_block::{
    Device, DeviceConfig, WritableConfig,
    server::{self, ServerConfig, ServerHandle},
};
use hearth_builder::BootLimits;
use hearth_confine::Confinement;
use hearth_ids::BuildId;
use hearth_machine::{BootSpec, DiskAttachment, Machine, NetworkAttachment, SaveTarget, VmShape};
use hearth_network::{Slot, SlotPool};
use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::task::TaskTracker;

const EXPORT: &str = "root";
/// What the VM process may take beyond its guest's memory.
const OVERHEAD_BYTES: u64 = 512 << 20;
/// How long a guest may take from its kernel's start to an agent that listens.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long the agent may take for a short answer, or to begin one about processes.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How long writing out the guest's caches and holding its disk still may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(300);
/// How long a file may take to be sent.
const SEND_LIMIT: Duration = Duration::from_secs(1800);

/// Why the VM is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    #[error("no network slot for the build's VM")]
    Slot(#[source] hearth_network::Error),
    #[error("end what a former build left")]
    Leftover(#[source] hearth_confine::Error),
    #[error("open the build's disk")]
    Disk(#[source] hearth_block::Error),
    #[error("use the build's disk")]
    DiskIo(#[from] hearth_block::IoError),
    #[error("run the build's VM")]
    Machine(#[from] hearth_machine::Error),
    #[error("the build's VM did not come up")]
    Boot(#[source] hearth_builder::Error),
    #[error("ask the agent of the build's VM")]
    Agent(#[from] hearth_agent_client::Error),
    #[error("{doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("a worker task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// What a VM is booted from.
pub(crate) struct Disk {
    /// Raw ext4 image at the bottom.
    pub(crate) image: PathBuf,
    /// Layers upon it, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) size_bytes: u64,
    /// Where the layer goes that takes the writes.
    pub(crate) writable: PathBuf,
    pub(crate) limit_bytes: u64,
}

pub(crate) struct BootRequest<'a> {
    pub(crate) build: BuildId,
    pub(crate) disk: Disk,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    /// The guest's memory; is made.
    pub(crate) memory_file: PathBuf,
    pub(crate) init: Init<'a>,
}

impl BootRequest<'_> {
    /// Removes what a guest wrote that did not come up: the next finds the disk as it
    /// was.
    pub(crate) fn clear(&self) -> Result<(), VmError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| VmError::Io {
                doing: "remove",
                path,
                source,
            }
        };
        std::fs::remove_dir_all(&self.disk.writable).map_err(failed(&self.disk.writable))?;
        std::fs::remove_file(&self.memory_file).map_err(failed(&self.memory_file))
    }
}

pub(crate) struct Vm {
    parts: Parts,
    pub(crate) device: Arc<Device>,
    agent: Agent,
    client: Option<AgentClient>,
    /// The version that the agent told.
    pub(crate) agent_version: String,
}

impl Vm {
    /// Boots and waits for the agent. What it takes is given back before it fails,
    /// and by `tasks` should the future be dropped.
    pub(crate) async fn boot(
        shared: &Shared,
        tasks: &TaskTracker,
        request: &BootRequest<'_>,
        limits: BootLimits,
    ) -> Result<Self, VmError> {
        let (mut parts, run_dir) = Parts::take(shared, request.build, tasks).await?;
        match bring_up(shared, &mut parts, &run_dir, request, limits).await {
            Ok(guest) => Ok(Self {
                parts,
                device: guest.device,
                agent: guest.agent,
                client: Some(guest.client),
                agent_version: guest.agent_version,
            }),
            Err(error) => {
                if let Err(error) = parts.give_back().await {
                    tracing::error!(error = %crate::error::chain(&error), "ending a build's VM failed");
                }
                Err(error)
            }
        }
    }

    /// Completes when the VM process has ended of itself, with the reason.
    pub(crate) async fn ended(&self) -> String {
        match &self.parts.machine {
            Some(machine) => machine.exited().await.to_string(),
            None => std::future::pending().await,
        }
    }

    /// For calls about processes; until the VM is saved.
    pub(crate) fn client(&self) -> &AgentClient {
        self.client
            .as_ref()
            .expect("taken only by saving, which is the last use")
    }

    /// Reads a small text file as root; `None` when there is none.
    pub(crate) async fn file_read(
        &self,
        path: &str,
    ) -> hearth_agent_client::Result<Option<String>> {
        self.agent.file_read(path, CALL_LIMIT).await
    }

    /// Writes a file as root out of one of the host.
    pub(crate) async fn file_send(&self, from: &Path, to: &str) -> hearth_agent_client::Result<()> {
        self.agent.file_send(from, to, SEND_LIMIT).await
    }

    /// Closes the layer that takes the writes, with a whole and clean file
    /// system, and goes on in the new layer `next`.
    pub(crate) async fn checkpoint(&self, next: &Path) -> Result<(), VmError> {
        self.agent
            .operate(Operation::FsFreeze, FREEZE_LIMIT)
            .await?;
        let (device, next) = (Arc::clone(&self.device), next.to_owned());
        let tasks = &self.parts.tasks;
        let sealed = tasks.spawn_blocking(move || device.seal(&next)).await?;
        self.agent.operate(Operation::FsThaw, CALL_LIMIT).await?;
        let sealing = sealed.map_err(VmError::Disk)?;
        tasks.spawn_blocking(move || sealing.finish()).await??;
        Ok(())
    }

    /// Stops the guest's clock and writes its devices; its memory is in the
    /// memory file. Ends the VM.
    pub(crate) async fn save(&mut self, device_state: PathBuf) -> Result<(), VmError> {
        // Its connections are not to be part of what is saved.
        self.client = None;
        if let Some(machine) = &self.parts.machine {
            machine.pause().await?;
            machine.save(SaveTarget { device_state }).await?;
        }
        self.stop().await
    }

    /// Ends the VM in order; the device stays readable.
    pub(crate) async fn stop(&mut self) -> Result<(), VmError> {
        self.parts.give_back().await
    }
}

/// A guest that came up.
struct Guest {
    device: Arc<Device>,
    agent: Agent,
    client: AgentClient,
    agent_version: String,
}

async fn bring_up(
    shared: &Shared,
    parts: &mut Parts,
    run_dir: &Path,
    request: &BootRequest<'_>,
    limits: BootLimits,
) -> Result<Guest, VmError> {
    // The group is the slot's: what is left in it would pass for this build's VM.
    hearth_confine::remove_cgroup(&cgroup_name(parts.slot())).map_err(VmError::Leftover)?;
    let disk = &request.disk;
    let config = DeviceConfig {
        base: Some(disk.image.clone()),
        layers: disk.layers.clone(),
        writable: Some(WritableConfig {
            directory: disk.writable.clone(),
            limit_bytes: Some(disk.limit_bytes),
            reserve_bytes: shared.config.limits.disk_reserve_bytes,
        }),
        size_bytes: disk.size_bytes,
    };
    let device = parts
        .tasks
        .spawn_blocking(move || Device::create(&config))
        .await?
        .map_err(VmError::Disk)?;
    let device = Arc::new(device);
    let socket = ServerConfig {
        owner: Some((parts.slot().uid, parts.slot().uid)),
        admission: {
            let cgroup = cgroup_name(parts.slot());
            server::Admission::by(move |pid| hearth_confine::is_member(&cgroup, pid))
        },
        ..ServerConfig::new(run_dir.join("nbd.sock"), EXPORT)
    };
    parts.server = Some(server::serve(&socket, Arc::clone(&device)).map_err(VmError::Disk)?);
    let spec = boot_spec(shared, parts.slot(), run_dir, request);
    let machine = shared.engine.boot(spec).await?;
    let agent = Agent::new(parts.slot().host_address);
    let machine = &*parts.machine.insert(machine);
    let console = run_dir.join("console.log");
    tokio::select! {
        ready = hearth_builder::wait_for_agent(&console, &agent, limits) => {
            ready.map_err(VmError::Boot)?;
        }
        why = machine.exited() => {
            return Err(VmError::Boot(hearth_builder::ended_in_boot(&console, why.to_string())));
        }
    }
    let agent_version = agent.init(&request.init, CALL_LIMIT).await?;
    let client = agent.client(CALL_LIMIT)?;
    Ok(Guest {
        device,
        agent,
        client,
        agent_version,
    })
}

/// Tries again where the first guest hung in its boot or reset itself: rarely one does,
/// and the next then comes up. `again` is called in between, with what is known of it.
pub(crate) async fn boot_twice<T, F: Future<Output = Result<T, VmError>>>(
    first: BootLimits,
    attempt: impl Fn(BootLimits) -> F,
    again: impl FnOnce(&hearth_builder::Error) -> Result<(), VmError>,
) -> Result<T, VmError> {
    match attempt(first).await {
        Err(VmError::Boot(
            error @ (hearth_builder::Error::Silent { .. }
            | hearth_builder::Error::EndedInBoot { .. }),
        )) => {
            again(&error)?;
            attempt(BootLimits::last(first.ready)).await
        }
        other => other,
    }
}

fn boot_spec(shared: &Shared, slot: &Slot, run_dir: &Path, request: &BootRequest<'_>) -> BootSpec {
    let shape = VmShape {
        vcpus: request.vcpus,
        memory_bytes: request.memory_mib << 20,
    };
    BootSpec {
        id: format!("template-{}", request.build),
        run_dir: run_dir.to_owned(),
        shape,
        kernel: shared.config.guest.kernel.clone(),
        initramfs: shared.config.guest.initramfs.clone(),
        cmdline_extra: String::new(),
        memory_file: request.memory_file.clone(),
        disk: DiskAttachment {
            nbd_socket: run_dir.join("nbd.sock"),
            export: EXPORT.to_owned(),
        },
        network: Some(NetworkAttachment {
            netns: slot.netns_path.clone(),
            tap: slot.tap.clone(),
            mac: slot.mac,
        }),
        confinement: Some(Confinement {
            netns: Some(slot.netns_path.clone()),
            uid: slot.uid,
            gid: slot.uid,
            cgroup_name: Some(cgroup_name(slot)),
            memory_limit_bytes: Some(shape.memory_bytes + OVERHEAD_BYTES),
            ..Confinement::default()
        }),
    }
}

/// What a VM holds of the host. Given back in order, and by a task of its own
/// when it is dropped half-way.
struct Parts {
    machine: Option<Box<dyn Machine>>,
    server: Option<ServerHandle>,
    /// Directory of sockets and console.
    run_dir: Option<PathBuf>,
    slot: Option<Slot>,
    slots: SlotPool,
    tasks: TaskTracker,
}

impl Parts {
    /// Takes a network slot and makes the directory.
    async fn take(
        shared: &Shared,
        build: BuildId,
        tasks: &TaskTracker,
    ) -> Result<(Self, PathBuf), VmError> {
        let slot = shared.slots.acquire().await.map_err(VmError::Slot)?;
        // Short, since a socket's path is: the beginning of the id tells enough.
        let name = build.uuid().simple().to_string();
        let run_dir = shared.config.run_dir.join(&name[..12]);
        let parts = Self {
            machine: None,
            server: None,
            run_dir: Some(run_dir.clone()),
            slot: Some(slot),
            slots: shared.slots.clone(),
            tasks: tasks.clone(),
        };
        match make_run_dir(&run_dir, parts.slot().uid) {
            Ok(()) => Ok((parts, run_dir)),
            Err(source) => Err(VmError::Io {
                doing: "make",
                path: run_dir,
                source,
            }),
        }
    }

    fn slot(&self) -> &Slot {
        self.slot
            .as_ref()
            .expect("held until it is given back, and asked for before")
    }

    async fn give_back(&mut self) -> Result<(), VmError> {
        let mut result = Ok(());
        if let Some(machine) = self.machine.take() {
            result = machine.stop().await.map_err(VmError::from);
        }
        if let Some(run_dir) = &self.run_dir {
            // One that was starting when its build was given up.
            for pid in hearth_machine::processes::naming(&format!("{}/", run_dir.display())) {
                if let Err(error) = hearth_machine::processes::end(pid) {
                    tracing::warn!(pid, %error, "cannot end a build's VM");
                }
            }
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        if let Some(run_dir) = self.run_dir.take()
            && let Err(error) = std::fs::remove_dir_all(&run_dir)
        {
            tracing::warn!(path = %run_dir.display(), %error, "cannot remove a build's directory");
        }
        if let Some(slot) = self.slot.take() {
            let name = cgroup_name(&slot);
            if let Err(error) = hearth_confine::remove_cgroup(&name) {
                // Something of it runs on: nobody else gets its network and its user.
                tracing::error!(%error, name, "a build's network slot is not given back");
            } else if let Err(error) = self.slots.release(slot).await {
                tracing::error!(%error, "a build's network slot could not be given back");
            }
        }
        result
    }

    fn is_empty(&self) -> bool {
        self.machine.is_none()
            && self.server.is_none()
            && self.run_dir.is_none()
            && self.slot.is_none()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if self.is_empty() {
            return;
        }
        let mut rest = Self {
            machine: self.machine.take(),
            server: self.server.take(),
            run_dir: self.run_dir.take(),
            slot: self.slot.take(),
            slots: self.slots.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn(async move {
            if let Err(error) = rest.give_back().await {
                tracing::error!(error = %crate::error::chain(&error), "ending a build's VM failed");
            }
        });
    }
}

fn make_run_dir(path: &Path, uid: u32) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)?;
    std::os::unix::fs::chown(path, Some(uid), Some(uid))
}

fn cgroup_name(slot: &Slot) -> String {
    format!("hearth-build-{}", slot.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, io::Write as _};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PATIENCE: BootLimits = BootLimits {
        ready: Duration::from_secs(60),
        silence: Some(Duration::from_millis(50)),
    };

    const RESET: &str = "Rebooting in 1 seconds..\r\n";

    /// An agent that says it is well.
    async fn agent() -> Agent {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let agent = Agent::at(listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        agent
    }

    /// Boots guests of which each writes its lines and then nothing more, or ends where
    /// the last is `RESET`; returns how many there were.
    async fn boots(consoles: [&str; 2]) -> (usize, Result<(), VmError>) {
        let agent = &agent().await;
        let count = Cell::new(0);
        let attempt = |limits| {
            let lines = consoles[count.replace(count.get() + 1)];
            async move {
                let mut console = tempfile::NamedTempFile::new().unwrap();
                console.write_all(lines.as_bytes()).unwrap();
                if lines.ends_with(RESET) {
                    let why = "exited with code 0".to_owned();
                    return Err(VmError::Boot(hearth_builder::ended_in_boot(
                        console.path(),
                        why,
                    )));
                }
                hearth_builder::wait_for_agent(console.path(), agent, limits)
                    .await
                    .map(drop)
                    .map_err(VmError::Boot)
            }
        };
        let result = boot_twice(PATIENCE, attempt, |_| Ok(())).await;
        (count.get(), result)
    }

    #[tokio::test]
    async fn a_guest_that_falls_silent_is_booted_once_more() {
        let hangs = "[    2.9] smp: Bringing up secondary CPUs ...\r\n";
        let fine = "[    1.0] Linux\r\nenvd: ready\r\n";
        let (count, result) = boots([hangs, fine]).await;
        assert_eq!(count, 2);
        result.unwrap();
        let (count, result) = boots([fine, hangs]).await;
        assert_eq!(count, 1);
        result.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_resets_itself_is_booted_once_more() {
        let panics = format!("[    0.4] Kernel panic - not syncing\r\n{RESET}");
        let fine = "[    1.0] Linux\r\nenvd: ready\r\n";
        let (count, result) = boots([&panics, fine]).await;
        assert_eq!(count, 2);
        result.unwrap();
        let (count, result) = boots([&panics, &panics]).await;
        assert_eq!(count, 2);
        let said = crate::error::chain(&result.unwrap_err());
        assert!(
            said.contains("exited with code 0") && said.contains("Kernel panic"),
            "{said}"
        );
    }
}
