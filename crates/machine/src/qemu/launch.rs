//! The first stages of a start: opening everything, then running QEMU.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_confine::{Confinement, Joining, Program};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::command::{CommandLine, Network, Start};
use super::{ENGINE, QemuConfig, filter, jail, overlay, preload, tsc};
use crate::accelerator::{Accelerator, kvm};
use crate::process::{self, Process};
use crate::qmp::{Pending, Qmp, QmpError};
use crate::{
    BootSpec, Console, DiskAttachment, Error, MachineRecord, MemoryMapping, MemoryOverlay,
    NetworkAttachment, RestoreSpec, VmShape, tap,
};

/// Length of a unix socket's path that the kernel accepts, in bytes.
const SOCKET_PATH_LIMIT: usize = 107;
/// How long a killed process may take to end.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Time for a dead process's end to be noticed after its socket closed.
const END_LIMIT: Duration = Duration::from_secs(2);
/// How much of the log is quoted in an error, in bytes.
const LOG_TAIL: u64 = 2048;
/// What QEMU says at every restore, because no memory description is saved.
const HARMLESS: &str = "Expected vmdescription section";

/// What every start needs from the engine.
pub(super) struct Context {
    pub(super) config: QemuConfig,
    pub(super) version: String,
    pub(super) preload: OwnedFd,
    /// The filters for the end of QEMU's set-up, and their length in bytes.
    pub(super) filters: (OwnedFd, usize),
    /// The limits that this host can enforce.
    pub(super) limits: jail::Limits,
}

/// Everything is open, nothing runs yet. Removes what it made when dropped.
pub(super) struct Prepared {
    program: Program,
    confinement: Option<Confinement>,
    record: MachineRecord,
    made: Made,
    state: Option<RawFd>,
    /// Whether the process joins its control group before it runs, so that a kernel that it
    /// reads into the guest's memory counts; else it joins while QEMU starts.
    join_first: bool,
}

/// Files that a failed start takes away again.
struct Made {
    paths: Vec<PathBuf>,
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.paths {
            remove(path);
        }
    }
}

/// A VM process with its monitor's connection.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) qmp: Qmp,
    pub(super) record: MachineRecord,
    /// Descriptor of the device state in QEMU, while it is to be loaded.
    pub(super) state: Option<RawFd>,
    /// Files that the start made: the socket, and the memory file of a boot.
    pub(super) made: Vec<PathBuf>,
    /// When the process was about to be started, or was found.
    pub(super) since: Instant,
    /// Moves the process into its control group, while QEMU starts.
    pub(super) joining: Option<JoinHandle<Result<(), hearth_confine::Error>>>,
}

/// What boot and restore have in common.
struct Common<'a> {
    id: &'a str,
    run_dir: &'a Path,
    shape: VmShape,
    memory_file: &'a Path,
    disk: &'a DiskAttachment,
    network: Option<&'a NetworkAttachment>,
    confinement: Option<&'a Confinement>,
}

/// Opens everything for a boot. Blocking.
pub(super) fn prepare_boot(context: &Context, spec: &BootSpec) -> Result<Prepared, Error> {
    let common = Common {
        id: &spec.id,
        run_dir: &spec.run_dir,
        shape: spec.shape,
        memory_file: &spec.memory_file,
        disk: &spec.disk,
        network: spec.network.as_ref(),
        confinement: spec.confinement.as_ref(),
    };
    let mut opened = Opened::new(context, &common, Console::File)?;
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&spec.memory_file)
        .map_err(Error::io("create memory file", &spec.memory_file))?;
    opened.made.paths.push(spec.memory_file.clone());
    memory
        .set_len(spec.shape.memory_bytes)
        .map_err(Error::io("size memory file", &spec.memory_file))?;
    let memory = opened.inherit(memory.into());
    let kernel = opened.inherit(open_public(&spec.kernel, spec.confinement.is_some())?.into());
    let initramfs =
        opened.inherit(open_public(&spec.initramfs, spec.confinement.is_some())?.into());
    // Under KVM the guest reads the rate from kvm-clock.
    let tsc_khz = (context.config.accelerator != Accelerator::Kvm).then(tsc::measure_khz);
    let start = Start::Boot {
        kernel,
        initramfs,
        cmdline_extra: &spec.cmdline_extra,
        tsc_khz,
    };
    let readable = [spec.kernel.clone(), spec.initramfs.clone()];
    opened.prepare(
        context,
        &common,
        memory,
        MemoryMapping::Shared,
        start,
        &readable,
    )
}

/// Opens everything for a restore. Blocking.
pub(super) fn prepare_restore(context: &Context, spec: &RestoreSpec) -> Result<Prepared, Error> {
    let common = Common {
        id: &spec.id,
        run_dir: &spec.run_dir,
        shape: spec.shape,
        memory_file: &spec.memory_file,
        disk: &spec.disk,
        network: spec.network.as_ref(),
        confinement: spec.confinement.as_ref(),
    };
    let mut opened = Opened::new(context, &common, context.config.restored_console)?;
    let memory =
        File::open(&spec.memory_file).map_err(Error::io("open memory image", &spec.memory_file))?;
    let length = memory
        .metadata()
        .map_err(Error::io("look at", &spec.memory_file))?
        .len();
    if length != spec.shape.memory_bytes {
        return Err(Error::InvalidSpec(format!(
            "the memory image has {length} bytes, the VM {}",
            spec.shape.memory_bytes
        )));
    }
    let memory = opened.inherit(memory.into());
    opened.overlay(&spec.memory_overlay, length)?;
    let state = File::open(&spec.device_state)
        .map_err(Error::io("open device state", &spec.device_state))?;
    opened.state = Some(opened.inherit(state.into()));
    opened.prepare(
        context,
        &common,
        memory,
        MemoryMapping::Private,
        Start::Restore,
        &[],
    )
}

/// What is open so far.
struct Opened {
    descriptors: Vec<OwnedFd>,
    made: Made,
    log: File,
    log_path: PathBuf,
    socket: PathBuf,
    monitor: RawFd,
    console: Option<RawFd>,
    network: Option<Network>,
    preload: RawFd,
    filters: (RawFd, usize),
    /// The KVM device, where guests run on it.
    kvm: Option<RawFd>,
    state: Option<RawFd>,
    /// The table of memory pieces for the preloaded library, and its length.
    table: Option<(RawFd, usize)>,
    overlay_files: Vec<PathBuf>,
}

impl Opened {
    fn new(context: &Context, common: &Common<'_>, console: Console) -> Result<Self, Error> {
        check(common)?;
        let mut made = Made { paths: Vec::new() };
        let socket = common.run_dir.join("qmp.sock");
        let listener = listen(&socket)?;
        made.paths.push(socket.clone());
        let log_path = common.run_dir.join("vm.log");
        let log = create_log(&log_path)?;
        let mut opened = Self {
            descriptors: Vec::new(),
            made,
            log,
            log_path,
            socket,
            monitor: listener.as_raw_fd(),
            console: None,
            network: None,
            preload: -1,
            filters: (-1, context.filters.1),
            kvm: None,
            state: None,
            table: None,
            overlay_files: Vec::new(),
        };
        opened.inherit(listener.into());
        let preload = context
            .preload
            .try_clone()
            .map_err(Error::io("duplicate the descriptor of", "hearth-open-fd"))?;
        opened.preload = opened.inherit(preload);
        let filters = context.filters.0.try_clone();
        let filters =
            filters.map_err(Error::io("duplicate the descriptor of", "hearth-filters"))?;
        opened.filters.0 = opened.inherit(filters);
        if context.config.accelerator == Accelerator::Kvm {
            let device = kvm::open().map_err(Error::io("open", kvm::DEVICE))?;
            opened.kvm = Some(opened.inherit(device));
        }
        if console == Console::File {
            let path = common.run_dir.join("console.log");
            opened.console = Some(opened.inherit(create_log(&path)?.into()));
        }
        if let Some(network) = common.network {
            let tap = tap::open(&network.netns, &network.tap)
                .map_err(Error::io("open TAP device", &network.tap))?;
            opened.network = Some(Network {
                tap: opened.inherit(tap),
                mac: network.mac,
            });
        }
        Ok(opened)
    }

    /// Keeps a descriptor for QEMU, which gets it under the same number.
    fn inherit(&mut self, descriptor: OwnedFd) -> RawFd {
        let number = descriptor.as_raw_fd();
        self.descriptors.push(descriptor);
        number
    }

    /// Opens the files whose pieces stand over the memory image of `memory_bytes`.
    fn overlay(&mut self, overlay: &MemoryOverlay, memory_bytes: u64) -> Result<(), Error> {
        if overlay.pieces.is_empty() {
            return Ok(());
        }
        let mut descriptors = Vec::new();
        for path in &overlay.files {
            let file = File::open(path).map_err(Error::io("open memory difference", path))?;
            let length = file.metadata().map_err(Error::io("look at", path))?.len();
            descriptors.push((self.inherit(file.into()), length));
        }
        let table = overlay::table(overlay, &descriptors, memory_bytes)?;
        let length = table.len();
        let table = preload::sealed("hearth-memory-pieces", &table)
            .map_err(Error::io("make the anonymous file", "hearth-memory-pieces"))?;
        self.table = Some((self.inherit(table), length));
        self.overlay_files.clone_from(&overlay.files);
        Ok(())
    }

    fn prepare(
        self,
        context: &Context,
        common: &Common<'_>,
        memory: RawFd,
        mapping: MemoryMapping,
        start: Start<'_>,
        readable: &[PathBuf],
    ) -> Result<Prepared, Error> {
        let join_first = matches!(start, Start::Boot { .. });
        let line = CommandLine {
            id: common.id,
            version: &context.version,
            accelerator: &context.config.accelerator,
            shape: common.shape,
            memory,
            mapping,
            disk: common.disk,
            network: self.network,
            monitor: self.monitor,
            console: self.console,
            start,
        };
        let mut program = Program::new(&context.config.program)
            .arguments(line.build())
            .environment("LD_PRELOAD", super::command::inherited(self.preload))
            .environment(
                preload::FILTERS,
                format!("{}:{}", self.filters.0, self.filters.1),
            );
        if let Some(descriptor) = self.kvm {
            program = program.environment(preload::KVM, descriptor.to_string());
        }
        if let Some((descriptor, length)) = self.table {
            program = program.environment("HEARTH_MEMORY_PIECES", format!("{descriptor}:{length}"));
        }
        let filter = filter::start_up().map_err(Error::io("make the filter of", "system calls"))?;
        let program = program
            .inherit(self.descriptors)
            .filter(filter)
            .stderr(self.log);
        let reachable = common.disk.nbd_socket.parent().map(Path::to_owned);
        let confinement = common.confinement.map(|confinement| {
            jail::complete(
                confinement,
                context.limits,
                common.shape,
                &context.config.program,
                readable,
                reachable.as_slice(),
            )
        });
        let record = MachineRecord {
            engine: ENGINE.to_owned(),
            id: common.id.to_owned(),
            pid: 0,
            start_time_ticks: 0,
            boot_id: process::boot_id(),
            control_socket: self.socket,
            log: self.log_path,
            shape: common.shape,
            memory_file: common.memory_file.to_owned(),
            memory_overlay_files: self.overlay_files,
            memory_mapping: mapping,
            cgroup_name: confinement.as_ref().and_then(|c| c.cgroup_name.clone()),
        };
        Ok(Prepared {
            program,
            confinement,
            record,
            made: self.made,
            state: self.state,
            join_first,
        })
    }
}

/// Prepares and runs, off the async threads where it blocks, and connects to the monitor.
pub(super) async fn start(
    prepare: impl FnOnce() -> Result<Prepared, Error> + Send + 'static,
) -> Result<Running, Error> {
    let spawned = tokio::task::spawn_blocking(move || prepare()?.spawn()).await;
    let mut spawned = match spawned {
        Ok(result) => result?,
        Err(error) => {
            return Err(Error::Protocol(format!(
                "the start was interrupted: {error}"
            )));
        }
    };
    let (hold, held) = oneshot::channel::<Infallible>();
    let joining = spawned.joining.take();
    let joining = tokio::task::spawn_blocking(move || {
        let joined = joining.map_or(Ok(()), Joining::join);
        drop(hold);
        joined
    });
    let process = Process::watch(spawned.record.pid, spawned.pidfd, held)
        .map_err(Error::io("watch the process of", &spawned.record.log))?;
    // Connects at once: the socket has been listening since before QEMU was started, and
    // QEMU takes the connection from the backlog when it is ready.
    let socket = spawned.record.control_socket.clone();
    match Qmp::connect(&socket).await {
        Ok(qmp) => Ok(Running {
            process,
            qmp,
            record: spawned.record,
            state: spawned.state,
            made: std::mem::take(&mut spawned.made.paths),
            since: spawned.since,
            joining: Some(joining),
        }),
        Err(source) => {
            kill_and_clean(&process, &spawned.record).await;
            Err(Error::Io {
                action: "connect to",
                path: socket,
                source,
            })
        }
    }
}

/// Just started, not yet watched.
struct Spawned {
    pidfd: OwnedFd,
    joining: Option<Joining>,
    record: MachineRecord,
    state: Option<RawFd>,
    made: Made,
    since: Instant,
}

impl Prepared {
    fn spawn(self) -> Result<Spawned, Error> {
        let Self {
            program,
            confinement,
            mut record,
            made,
            state,
            join_first,
        } = self;
        let since = Instant::now();
        let (spawned, joining) = if join_first {
            program
                .spawn(confinement.as_ref())
                .map(|spawned| (spawned, None))
        } else {
            let started = program.spawn_joining(confinement.as_ref());
            started.map(|(spawned, joining)| (spawned, Some(joining)))
        }
        .map_err(|source| Error::Spawn {
            source,
            log_tail: log_tail(&record.log),
        })?;
        record.pid = spawned.pid;
        // A process that has already ended has no start time; its end will be noticed.
        record.start_time_ticks = process::start_time(spawned.pid)
            .ok()
            .flatten()
            .unwrap_or_default();
        Ok(Spawned {
            pidfd: spawned.pidfd,
            joining,
            record,
            state,
            made,
            since,
        })
    }
}

impl Running {
    /// Waits until the process is in its control group, before any guest code runs.
    pub(super) async fn limited(&mut self) -> Result<(), Error> {
        let Some(joining) = self.joining.take() else {
            return Ok(());
        };
        match joining.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(Error::Spawn {
                source,
                log_tail: self.log_tail(),
            }),
            Err(error) => Err(Error::Protocol(format!(
                "the start was interrupted: {error}"
            ))),
        }
    }

    /// Waits for an answer; a dead process is reported as such, with its last words.
    pub(super) async fn answer(
        &self,
        command: &'static str,
        pending: Pending,
        limit: Duration,
    ) -> Result<Value, Error> {
        match self.wait(command, limit, pending.answer(limit)).await? {
            Ok(value) => Ok(value),
            Err(QmpError::Refused(message)) => Err(Error::Refused {
                command,
                message,
                log_tail: self.log_tail(),
            }),
            Err(QmpError::Timeout) => Err(Error::Timeout {
                waited_for: command,
                limit,
                log_tail: self.log_tail(),
            }),
            Err(QmpError::Closed) => {
                // A dead process's socket closes a moment before its end is reported.
                match tokio::time::timeout(END_LIMIT, self.process.exited()).await {
                    Ok(reason) => Err(Error::Ended {
                        reason,
                        log_tail: self.log_tail(),
                    }),
                    Err(_) => Err(Error::Protocol(QmpError::Closed.to_string())),
                }
            }
        }
    }

    /// Waits for `work`, for the end of the process, or for `limit`.
    pub(super) async fn wait<T>(
        &self,
        waited_for: &'static str,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            value = work => Ok(value),
            reason = self.process.exited() => {
                Err(Error::Ended { reason, log_tail: self.log_tail() })
            }
            () = tokio::time::sleep(limit) => {
                Err(Error::Timeout { waited_for, limit, log_tail: self.log_tail() })
            }
        }
    }

    /// An error for a command after whose failure QEMU exits: waits for what it says.
    pub(super) async fn last_words(&self, command: &'static str, message: &str) -> Error {
        // When it does not exit, its log has all there is.
        let _ = tokio::time::timeout(END_LIMIT, self.process.exited()).await;
        Error::Refused {
            command,
            message: message.to_owned(),
            log_tail: self.log_tail(),
        }
    }

    fn log_tail(&self) -> String {
        log_tail(&self.record.log)
    }

    /// Kills the process and removes everything that the start made.
    pub(super) async fn undo(self) {
        kill_and_clean(&self.process, &self.record).await;
        for path in &self.made {
            remove(path);
        }
    }
}

async fn kill_and_clean(process: &Process, record: &MachineRecord) {
    match process.kill(KILL_LIMIT).await {
        Ok(true) => {}
        Ok(false) => tracing::error!(pid = record.pid, "a VM process does not end"),
        Err(error) => tracing::error!(pid = record.pid, %error, "killing a VM process failed"),
    }
    if let Err(error) = remove_cgroup(record).await {
        tracing::error!(pid = record.pid, %error, "removing a control group failed");
    }
}

/// Removes the VM's control group, if it has one.
pub(super) async fn remove_cgroup(record: &MachineRecord) -> Result<(), hearth_confine::Error> {
    let Some(name) = record.cgroup_name.clone() else {
        return Ok(());
    };
    match tokio::task::spawn_blocking(move || hearth_confine::remove_cgroup(&name)).await {
        Ok(result) => result,
        // Only when the runtime goes down; who uses the group's name next ends what it holds.
        Err(_) => Ok(()),
    }
}

/// Removes a file that may not exist.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "removing a file failed"),
    }
}

fn check(common: &Common<'_>) -> Result<(), Error> {
    let refuse = |reason: &str| Err(Error::InvalidSpec(reason.to_owned()));
    let VmShape {
        vcpus,
        memory_bytes,
    } = common.shape;
    let good_id = (1..=64).contains(&common.id.len())
        && common
            .id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !good_id {
        return refuse("the id is not 1 to 64 letters, digits, '-', '_' and '.'");
    }
    if vcpus == 0 || vcpus > 64 {
        return refuse("the number of processors is not 1 to 64");
    }
    if memory_bytes == 0 || memory_bytes % (1 << 20) != 0 {
        return refuse("the memory is not a multiple of 1 MiB");
    }
    if common.disk.nbd_socket.as_os_str().len() > SOCKET_PATH_LIMIT {
        return refuse("the disk socket's path is too long");
    }
    if common.disk.nbd_socket.to_str().is_none() {
        return refuse("the disk socket's path is not UTF-8");
    }
    Ok(())
}

/// Makes the monitor's socket. QEMU inherits the listener, so it has no access to the
/// path, and nobody but root can connect.
fn listen(path: &Path) -> Result<UnixListener, Error> {
    if path.as_os_str().len() > SOCKET_PATH_LIMIT {
        return Err(Error::InvalidSpec(
            "the run directory's path is too long".to_owned(),
        ));
    }
    remove(path);
    let listener = UnixListener::bind(path).map_err(Error::io("listen on", path))?;
    let private = fs::Permissions::from_mode(0o600);
    if let Err(source) = fs::set_permissions(path, private) {
        remove(path);
        return Err(Error::Io {
            action: "restrict",
            path: path.to_owned(),
            source,
        });
    }
    Ok(listener)
}

/// A fresh log that only root reads; never through a link somebody left there.
fn create_log(path: &Path) -> Result<File, Error> {
    remove(path);
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create log", path))
}

/// Opens a kernel or initramfs. QEMU opens it again through `/proc/self/fd` in ways that
/// are not all caught, so a confined QEMU needs it to be readable by everybody.
fn open_public(path: &Path, confined: bool) -> Result<File, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mode = file.metadata().map_err(Error::io("look at", path))?.mode();
    if confined && mode & 0o004 == 0 {
        return Err(Error::InvalidSpec(format!(
            "{} is not readable by everybody, as kernel and initramfs must be",
            path.display()
        )));
    }
    Ok(file)
}

/// The last lines of a log, without what QEMU says every time.
fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    String::from_utf8_lossy(&tail)
        .lines()
        .filter(|line| !line.contains(HARMLESS) && !line.trim().is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}
