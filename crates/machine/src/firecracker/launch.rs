//! A start: opening what Firecracker inherits, running it, and telling it what to do.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_confine::{Confinement, Program};

use super::api::{
    Api, ApiError, BootSource, Drive, Instance, Interface, MachineConfig, MemoryBackend,
    NetworkOverride, SnapshotLoad,
};
use super::config::{ENGINE, FirecrackerConfig};
use super::jail::{self, DISK, OWN_DIR, OwnDir};
use crate::launch::{self, Made, Prepared, Request, Supervised, create_log, open_public, remove};
use crate::{
    BootSpec, Console, Error, MachineRecord, MemoryMapping, MemorySource, NetworkAttachment,
    RestoreSpec, VmShape,
};

/// Kernel parameters of every boot. A panic or a reboot ends the VM at once.
const KERNEL_PARAMETERS: &str = "console=ttyS0 reboot=k panic=-1 pci=off";
/// How long Firecracker may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a request that configures may take.
const CONFIGURE_LIMIT: Duration = Duration::from_secs(20);
/// How long loading a device state may take.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks for the API's socket.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The API's socket in the VM's own directory.
const SOCKET: &str = "api.sock";
/// The device state that is to be loaded, there.
const STATE_IN: &str = "state.in";
/// Kernel pages, of which the scratch file's file system must not hold more than one
/// together: only so can written ones be told from others.
const PAGE: u64 = 4096;

/// A Firecracker process, and its API.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) vm: Supervised,
    pub(super) api: Api,
}

/// What is left to do for a boot once the process answers.
#[derive(Debug)]
pub(super) struct Boot {
    shape: VmShape,
    kernel: String,
    initramfs: String,
    arguments: String,
    network: Option<NetworkAttachment>,
    own: OwnDir,
}

/// What is left to do for a restore.
#[derive(Debug)]
pub(super) struct Load {
    memory: String,
    network: Option<NetworkAttachment>,
    resume: bool,
    own: OwnDir,
}

/// Opens everything for a boot. Blocking.
pub(super) fn prepare_boot(
    config: &FirecrackerConfig,
    spec: &BootSpec,
) -> Result<(Prepared, Boot), Error> {
    let request = Request::boot(spec);
    let mut opened = Opened::new(config, &request, Console::File)?;
    let uid = opened.confinement.uid;
    let memory = create_for(&spec.memory_file, uid)?;
    opened.made.push(&spec.memory_file);
    opened.inherit(memory.into());
    let kernel = open_public(&spec.kernel, true)?;
    let initramfs = open_public(&spec.initramfs, true)?;
    let (kernel, initramfs) = (
        opened.inherit(kernel.into()),
        opened.inherit(initramfs.into()),
    );
    let (prepared, own) = opened.prepare(config, &request, MemoryMapping::Own)?;
    let boot = Boot {
        shape: spec.shape,
        kernel,
        initramfs,
        arguments: format!("{KERNEL_PARAMETERS} {}", spec.cmdline_extra),
        network: spec.network.clone(),
        own,
    };
    Ok((prepared, boot))
}

/// Opens everything for a restore. Blocking.
pub(super) fn prepare_restore(
    config: &FirecrackerConfig,
    spec: &RestoreSpec,
) -> Result<(Prepared, Load), Error> {
    let MemorySource::Image(image) = &spec.memory else {
        return Err(Error::Unsupported(
            "Firecracker restores a memory from one file, not from pieces over an image",
        ));
    };
    let request = Request::restore(spec);
    let mut opened = Opened::new(config, &request, config.restored_console)?;
    let uid = opened.confinement.uid;
    jail::show(image)?;
    let memory = open_public(image, true)?;
    let length = memory
        .metadata()
        .map_err(Error::io("look at", image))?
        .len();
    if length != spec.shape.memory_bytes {
        return Err(Error::InvalidSpec(format!(
            "the memory image has {length} bytes, the VM {}",
            spec.shape.memory_bytes
        )));
    }
    let memory = opened.inherit(memory.into());
    let scratch = create_for(&spec.scratch, uid)?;
    opened.made.push(&spec.scratch);
    check_granularity(&scratch, &spec.scratch)?;
    opened.inherit(scratch.into());
    let state = OwnDir::path(&spec.run_dir).join(STATE_IN);
    fs::copy(&spec.device_state, &state)
        .map_err(Error::io("copy device state", &spec.device_state))?;
    jail::give(&state, uid)?;
    let (mut prepared, own) = opened.prepare(config, &request, MemoryMapping::Private)?;
    prepared.record.memory_scratch = Some(spec.scratch.clone());
    let load = Load {
        memory,
        network: spec.network.clone(),
        resume: spec.resume,
        own,
    };
    Ok((prepared, load))
}

/// A new file that the VM's user may write to.
fn create_for(path: &Path, uid: u32) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create memory file", path))?;
    let given = jail::give(path, uid);
    if given.is_err() {
        remove(path);
    }
    given.map(|()| file)
}

fn check_granularity(file: &File, path: &Path) -> Result<(), Error> {
    let found = rustix::fs::fstatvfs(file)
        .map_err(|error| Error::io("look at the file system of", path)(error.into()))?;
    if found.f_bsize > PAGE {
        return Err(Error::InvalidSpec(format!(
            "the file system of {} holds {} bytes together, not pages of {PAGE}",
            path.display(),
            found.f_bsize
        )));
    }
    Ok(())
}

/// What is open so far.
struct Opened {
    descriptors: Vec<OwnedFd>,
    made: Made,
    own: OwnDir,
    confinement: Confinement,
    console: Option<File>,
    log: File,
    log_path: PathBuf,
}

impl Opened {
    fn new(
        config: &FirecrackerConfig,
        request: &Request<'_>,
        console: Console,
    ) -> Result<Self, Error> {
        request.check()?;
        let confinement = request.confinement.ok_or(Error::Unsupported(
            "Firecracker without a jail, where its disk has its place",
        ))?;
        let own = OwnDir::make(request.run_dir, confinement.uid)?;
        let confinement = jail::complete(confinement, request, &config.program)?;
        let log_path = request.run_dir.join("vm.log");
        let log = create_log(&log_path)?;
        let console = match console {
            Console::File => Some(create_log(&request.run_dir.join("console.log"))?),
            Console::Null => None,
        };
        Ok(Self {
            descriptors: Vec::new(),
            made: Made::default(),
            own,
            confinement,
            console,
            log,
            log_path,
        })
    }

    /// Keeps a descriptor for the process, and returns the path that it opens it by.
    fn inherit(&mut self, descriptor: OwnedFd) -> String {
        let path = descriptor_path(descriptor.as_raw_fd());
        self.descriptors.push(descriptor);
        path
    }

    fn prepare(
        self,
        config: &FirecrackerConfig,
        request: &Request<'_>,
        mapping: MemoryMapping,
    ) -> Result<(Prepared, OwnDir), Error> {
        let own_path = OwnDir::path(request.run_dir);
        let socket = own_path.join(SOCKET);
        let name: String = request
            .id
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let filter = crate::qemu::start_up_filter()
            .map_err(Error::io("make the filter of", "system calls"))?;
        let mut program = Program::new(&config.program)
            .arguments(["--id", &name, "--level", "Warn", "--api-sock"])
            .arguments([format!("{OWN_DIR}/{SOCKET}")])
            // Not for it, which reads nothing behind the dashes: by this it is found that
            // nobody has written down (`processes::naming`).
            .arguments([OsStr::new("--"), own_path.as_os_str()])
            .inherit(self.descriptors)
            .filter(filter)
            .stderr(self.log);
        if let Some(console) = self.console {
            program = program.stdout(console);
        }
        let prepared = Prepared {
            program,
            confinement: Some(self.confinement),
            record: request.record(ENGINE, mapping, socket, self.log_path),
            made: self.made,
            join_first: false,
            harmless: &[],
        };
        Ok((prepared, self.own))
    }
}

pub(super) fn descriptor_path(number: impl std::fmt::Display) -> String {
    format!("/proc/self/fd/{number}")
}

/// Prepares and runs, off the async threads where it blocks.
pub(super) async fn start<T: Send + 'static>(
    prepare: impl FnOnce() -> Result<(Prepared, T), Error> + Send + 'static,
) -> Result<(Running, T), Error> {
    let (vm, rest) = launch::start(prepare).await?;
    Ok((Running::of(vm), rest))
}

impl Running {
    pub(super) fn of(vm: Supervised) -> Self {
        let api = Api::new(&vm.record.control_socket);
        Self { vm, api }
    }

    /// Waits until the API answers.
    pub(super) async fn ready(&self) -> Result<Instance, Error> {
        let answers = async {
            loop {
                match self.api.instance().await {
                    Err(ApiError::Connect(_)) => tokio::time::sleep(LOOK_EVERY).await,
                    result => return result,
                }
            }
        };
        self.answer("GET /", START_LIMIT, answers).await
    }

    /// Asks within `limit`.
    pub(super) async fn instance(&self, limit: Duration) -> Result<Instance, Error> {
        self.answer("GET /", limit, self.api.instance()).await
    }

    /// Waits for an answer; a dead process is reported as such, with its last words.
    pub(super) async fn answer<T>(
        &self,
        command: &'static str,
        limit: Duration,
        asked: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, Error> {
        match self.vm.wait(command, limit, asked).await? {
            Ok(value) => Ok(value),
            Err(ApiError::Refused { message, .. }) => Err(self.vm.refused(command, message)),
            Err(error @ ApiError::Garbage(_)) => Err(Error::Protocol(error.to_string())),
            // A dead process's socket closes a moment before its end is reported.
            Err(error @ (ApiError::Connect(_) | ApiError::Closed(_))) => {
                Err(self.vm.closed(error.to_string()).await)
            }
        }
    }

    /// Kills the process and removes everything that the start made.
    pub(super) async fn undo(self) {
        let own = own_dir(&self.vm.record);
        self.vm.undo().await;
        jail::remove_dir(&own);
    }
}

/// The VM's own directory on the host.
pub(super) fn own_dir(record: &MachineRecord) -> PathBuf {
    let socket = &record.control_socket;
    socket.parent().unwrap_or(socket).to_owned()
}

impl Boot {
    /// Configures the VM and lets it run.
    pub(super) async fn run(self, running: &mut Running) -> Result<(), Error> {
        let api = &running.api;
        let config = MachineConfig {
            vcpu_count: self.shape.vcpus,
            mem_size_mib: self.shape.memory_bytes >> 20,
            smt: false,
            // A booted VM is saved whole.
            track_dirty_pages: false,
        };
        let configured = api.machine_config(&config);
        running
            .answer("PUT /machine-config", CONFIGURE_LIMIT, configured)
            .await?;
        let source = BootSource {
            kernel_image_path: &self.kernel,
            initrd_path: &self.initramfs,
            boot_args: &self.arguments,
        };
        let configured = api.boot_source(&source);
        running
            .answer("PUT /boot-source", CONFIGURE_LIMIT, configured)
            .await?;
        let drive = Drive {
            drive_id: "root",
            path_on_host: DISK,
            is_root_device: false,
            is_read_only: false,
            // What the guest flushes is on the disk.
            cache_type: "Writeback",
            io_engine: "Sync",
        };
        running
            .answer("PUT /drives", CONFIGURE_LIMIT, api.drive(&drive))
            .await?;
        if let Some(network) = &self.network {
            let interface = Interface {
                iface_id: INTERFACE,
                host_dev_name: &network.tap,
                guest_mac: &mac(network.mac),
            };
            running
                .answer(
                    "PUT /network-interfaces",
                    CONFIGURE_LIMIT,
                    api.interface(&interface),
                )
                .await?;
        }
        running
            .answer("PUT /entropy", CONFIGURE_LIMIT, api.entropy())
            .await?;
        running
            .answer("InstanceStart", CONFIGURE_LIMIT, api.start())
            .await?;
        self.own.keep();
        Ok(())
    }
}

/// The network interface's name for Firecracker.
const INTERFACE: &str = "eth0";

fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

impl Load {
    /// Loads the device state, and lets the guest run if wanted.
    pub(super) async fn run(self, running: &mut Running) -> Result<(), Error> {
        let overrides = self.network.iter().map(|network| NetworkOverride {
            iface_id: INTERFACE,
            host_dev_name: &network.tap,
        });
        let state = format!("{OWN_DIR}/{STATE_IN}");
        let snapshot = SnapshotLoad {
            snapshot_path: &state,
            mem_backend: MemoryBackend {
                backend_type: "File",
                backend_path: &self.memory,
            },
            enable_diff_snapshots: true,
            resume_vm: self.resume,
            network_overrides: overrides.collect(),
        };
        let loaded = running.api.snapshot_load(&snapshot);
        running
            .answer("PUT /snapshot/load", LOAD_LIMIT, loaded)
            .await?;
        remove(&own_dir(&running.vm.record).join(STATE_IN));
        tracing::debug!(
            id = running.vm.record.id,
            pid = running.vm.record.pid,
            done = ?running.vm.since.elapsed(),
            "restored, time since the process was started"
        );
        self.own.keep();
        Ok(())
    }
}
