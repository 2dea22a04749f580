//! The first stages of a start: opening everything that QEMU inherits, and running it.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_confine::Program;
use serde_json::Value;

use super::command::{CommandLine, NbdExport, Network, Start};
use super::{ENGINE, QemuConfig, filter, jail, overlay, preload, tsc};
use crate::accelerator::{Accelerator, kvm};
use crate::launch::{self, Made, Prepared, Request, Supervised, create_log, listen, open_public};
use crate::qmp::{Pending, Qmp, QmpError};
use crate::{
    BootSpec, Console, DiskAttachment, Error, MemoryMapping, MemoryOverlay, MemorySource,
    RestoreSpec, tap,
};

/// What QEMU says at every restore, because no memory description is saved.
pub(super) const HARMLESS: &[&str] = &["Expected vmdescription section"];

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

/// Descriptor of the device state in QEMU, while it is to be loaded.
type DeviceState = Option<RawFd>;

/// A QEMU process with its monitor's connection.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) vm: Supervised,
    pub(super) qmp: Qmp,
    pub(super) state: DeviceState,
}

/// Opens everything for a boot. Blocking.
pub(super) fn prepare_boot(
    context: &Context,
    spec: &BootSpec,
) -> Result<(Prepared, DeviceState), Error> {
    let request = Request::boot(spec);
    let mut opened = Opened::new(context, &request, Console::File)?;
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&spec.memory_file)
        .map_err(Error::io("create memory file", &spec.memory_file))?;
    opened.made.push(&spec.memory_file);
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
        &request,
        memory,
        MemoryMapping::Shared,
        start,
        &readable,
    )
}

/// Opens everything for a restore. Blocking.
pub(super) fn prepare_restore(
    context: &Context,
    spec: &RestoreSpec,
) -> Result<(Prepared, DeviceState), Error> {
    let request = Request::restore(spec);
    let mut opened = Opened::new(context, &request, context.config.restored_console)?;
    let image = spec.memory.image();
    let memory = File::open(image).map_err(Error::io("open memory image", image))?;
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
    if let MemorySource::Pieces { overlay, .. } = &spec.memory {
        opened.overlay(overlay, length)?;
    }
    let state = File::open(&spec.device_state)
        .map_err(Error::io("open device state", &spec.device_state))?;
    opened.state = Some(opened.inherit(state.into()));
    opened.prepare(
        context,
        &request,
        memory,
        MemoryMapping::Private,
        Start::Restore,
        &[],
    )
}

/// What is open so far.
struct Opened<'a> {
    disk: NbdExport<'a>,
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

impl<'a> Opened<'a> {
    fn new(context: &Context, request: &Request<'a>, console: Console) -> Result<Self, Error> {
        request.check()?;
        let disk = nbd_export(request.disk)?;
        let mut made = Made::default();
        let socket = request.run_dir.join("qmp.sock");
        let listener = listen(&socket)?;
        made.push(&socket);
        let log_path = request.run_dir.join("vm.log");
        let log = create_log(&log_path)?;
        let mut opened = Self {
            disk,
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
            let path = request.run_dir.join("console.log");
            opened.console = Some(opened.inherit(create_log(&path)?.into()));
        }
        if let Some(network) = request.network {
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
        request: &Request<'_>,
        memory: RawFd,
        mapping: MemoryMapping,
        start: Start<'_>,
        readable: &[PathBuf],
    ) -> Result<(Prepared, DeviceState), Error> {
        let join_first = matches!(start, Start::Boot { .. });
        let line = CommandLine {
            id: request.id,
            version: &context.version,
            accelerator: &context.config.accelerator,
            shape: request.shape,
            memory,
            mapping,
            disk: self.disk,
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
        let reachable = self.disk.socket.parent().map(Path::to_owned);
        let confinement = request.confinement.map(|confinement| {
            jail::complete(
                confinement,
                context.limits,
                request.shape,
                &context.config.program,
                readable,
                reachable.as_slice(),
            )
        });
        let mut record = request.record(ENGINE, mapping, self.socket, self.log_path);
        record.memory_overlay_files = self.overlay_files;
        let prepared = Prepared {
            program,
            confinement,
            record,
            made: self.made,
            join_first,
            harmless: HARMLESS,
        };
        Ok((prepared, self.state))
    }
}

/// Prepares and runs, off the async threads where it blocks, and connects to the monitor.
pub(super) async fn start(
    prepare: impl FnOnce() -> Result<(Prepared, DeviceState), Error> + Send + 'static,
) -> Result<Running, Error> {
    let (vm, state) = launch::start(prepare).await?;
    // Connects at once: the socket has been listening since before QEMU was started, and
    // QEMU takes the connection from the backlog when it is ready.
    let connected = Qmp::connect(&vm.record.control_socket).await;
    match connected {
        Ok(qmp) => Ok(Running { vm, qmp, state }),
        Err(source) => {
            let path = vm.record.control_socket.clone();
            vm.undo().await;
            Err(Error::Io {
                action: "connect to",
                path,
                source,
            })
        }
    }
}

impl Running {
    /// Waits for an answer; a dead process is reported as such, with its last words.
    pub(super) async fn answer(
        &self,
        command: &'static str,
        pending: Pending,
        limit: Duration,
    ) -> Result<Value, Error> {
        match self.vm.wait(command, limit, pending.answer(limit)).await? {
            Ok(value) => Ok(value),
            Err(QmpError::Refused(message)) => Err(self.vm.refused(command, message)),
            Err(QmpError::Timeout) => Err(self.vm.timeout(command, limit)),
            // A dead process's socket closes a moment before its end is reported.
            Err(QmpError::Closed) => Err(self.vm.closed(QmpError::Closed.to_string()).await),
        }
    }
}

/// The disk as QEMU takes it. It could open a block device as well, but its jail holds
/// none, and its own NBD client needs no privilege of the host's.
fn nbd_export(disk: &DiskAttachment) -> Result<NbdExport<'_>, Error> {
    match disk {
        DiskAttachment::NbdSocket { socket, export } => Ok(NbdExport { socket, export }),
        DiskAttachment::BlockDevice { .. } => Err(Error::Unsupported(
            "QEMU is given its disk as an NBD socket, not as a block device",
        )),
    }
}
