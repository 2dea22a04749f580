//! Keeping a running sandbox's state as a build, in two halves. [`capture`] needs
//! the VM to stand still and leaves it so: device state, the memory that was
//! written, and a seal on the disk. [`publish`] needs it no more: it makes the
//! build durable and visible, which is the moment at which it happened.
//!
//! ```text
//! freeze guest ─ pause VM ─ devices, memory ─ journal layers ─ seal disk ┆
//!                └──────────────── the VM stands still ────────────────┘
//! link disk ─ write memory, but for what is on that disk ─ publish
//! ```
//!
//! Until the build is published nothing is taken from the sandbox: its sealed disk
//! layers stay where they are (the build gets links to their files), and so does
//! its journal. So a failure, or a daemon's end, leaves a sandbox that can run on.

use super::{
    blocking::blocking,
    ground::{Ground, Secrets},
    resources::Resources,
    seal::seal,
    setup,
};
use crate::{
    admission,
    error::{Error, chain},
    hooks::Step,
    journal::{Keeping, Record},
    node::Shared,
};
use hearth_agent_client::{Agent, Operation};
use hearth_machine::{DirtyMemory, Machine, MemoryTarget, SaveTarget};
use hearth_snapshot::{
    Below, Build, BuildCache, DEVICE_STATE_FILE, Digest, DiskBlocks, Draft, EngineVersion,
    FileRole, Kind, MEMORY_DIFFERENCE_FILE, MEMORY_FILE, MEMORY_INDEX_FILE, SECRETS_FILE, Stack,
    Staging, difference, sparse,
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the guest may take to hold its programs.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to write what is due to its disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(20);
/// Differences on top of each other; the next one takes in those below it.
const MEMORY_DEPTH: usize = 8;
/// Pieces of a composed memory beyond which the next difference takes all in.
const MEMORY_PIECES: usize = 12_000;
/// Disk layers on top of each other; beyond that they are merged into one.
const DISK_DEPTH: usize = 48;
/// Threads that copy memory while the VM stands still.
const COPY_THREADS: usize = 2;
/// Memory that a VM may write between being asked and being paused.
const BUFFER_SPARE_BYTES: u64 = 16 << 20;
/// What fresh room is filled with, to have the kernel provide it: not zeros, for
/// those are provided on the first write only.
const UNWRITTEN: u8 = 0xa5;

/// A disk layer that takes more than this is not searched for pages that are in
/// memory too: reading it takes longer than it saves.
const SEARCHED_BYTES: u64 = 256 << 20;
/// How many layers of a build are searched, the newest first: each in which a page is
/// found is a file that a VM has open when it goes on.
const SEARCHED_LAYERS: usize = 4;

/// What a build is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The VM ends once the build is there.
    Pause,
    /// The VM goes on.
    Snapshot,
}

/// A state that was captured while the VM stood still.
pub(crate) struct Captured {
    staging: Staging,
    keeping: Keeping,
    purpose: Purpose,
    memory_below: Vec<hearth_ids::BuildId>,
    /// Memory that is yet to be written.
    pending: Option<Pending>,
    files: Vec<(FileRole, String)>,
    /// What the VM ran under, where it is known.
    engine_version: Option<String>,
}

/// Ranges of the guest's memory, and where they are read.
struct Pending {
    ranges: Vec<Range<u64>>,
    pages: Pages,
    memory_bytes: u64,
}

enum Pages {
    /// In the VM, which stands still.
    OfVm(Box<dyn DirtyMemory>),
    /// One after the other in a buffer.
    Copied(Vec<u8>),
}

/// Takes everything for which the VM must stand still. On success and failure
/// alike the VM may be paused and the guest frozen afterwards.
pub(crate) async fn capture(
    shared: &Shared,
    ground: &Ground,
    record: &mut Record,
    resources: &mut Resources,
    keeping: Keeping,
    purpose: Purpose,
) -> Result<Captured, Error> {
    // Made first: the VM stands still for less.
    let staging = shared.builds.stage(keeping.build).await;
    let staging = staging.map_err(|error| match error {
        hearth_snapshot::Error::Exists(_) => Error::Invalid(error.to_string()),
        other => Error::step("make room for the build")(other),
    })?;
    let _unlimited = resources.disk().map(|disk| disk.unlimited());
    let machine = machine(resources)?;
    let buffer = match purpose {
        Purpose::Snapshot => buffer_for(machine).await,
        Purpose::Pause => Vec::new(),
    };
    freeze(record, resources, keeping.with_memory).await;
    shared.hooks.reached(Step::Frozen)?;
    machine.pause().await.map_err(Error::step("pause the VM"))?;
    shared.hooks.reached(Step::VmPaused)?;

    let mut captured = Captured {
        staging,
        keeping,
        purpose,
        memory_below: Vec::new(),
        pending: None,
        files: Vec::new(),
        engine_version: None,
    };
    if keeping.with_memory {
        let device_state = captured.staging.directory().join(DEVICE_STATE_FILE);
        let kept = ground.memory.as_ref();
        let target = SaveTarget {
            device_state,
            memory: kept.map_or(MemoryTarget::Image, |_| MemoryTarget::Difference),
        };
        let saved = machine.save(target).await;
        saved.map_err(Error::step("save the VM's devices"))?;
        captured.add(FileRole::DeviceState, DEVICE_STATE_FILE);
        captured.engine_version = Some(machine.engine_version());
        shared.hooks.reached(Step::DevicesSaved)?;
        memory(shared, ground, record, machine, buffer, &mut captured).await?;
    }
    seal(shared, record, resources).await?;
    Ok(captured)
}

fn machine(resources: &Resources) -> Result<&dyn Machine, Error> {
    resources
        .machine()
        .ok_or_else(|| Error::step("pause the VM")("there is none".to_owned()))
}

impl Captured {
    fn add(&mut self, role: FileRole, name: &str) {
        self.files.push((role, name.to_owned()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.staging.directory().join(name)
    }

    /// The newest of the disk layers that were linked, by number and data file.
    fn searched_layers(&self) -> Vec<(u32, PathBuf)> {
        let data = self.files.iter();
        let layers: Vec<_> = data
            .filter(|(role, _)| *role == FileRole::DiskData)
            .zip(0..)
            .map(|((_, name), number)| (number, self.path(name)))
            .collect();
        let older = layers.len().saturating_sub(SEARCHED_LAYERS);
        layers.into_iter().skip(older).collect()
    }

    fn difference_paths(&self) -> [PathBuf; 2] {
        [MEMORY_DIFFERENCE_FILE, MEMORY_INDEX_FILE].map(|name| self.path(name))
    }

    fn add_difference(&mut self) {
        self.add(FileRole::MemoryDifference, MEMORY_DIFFERENCE_FILE);
        self.add(FileRole::MemoryIndex, MEMORY_INDEX_FILE);
    }
}

/// Lets the guest hold its programs, and without a memory to keep them in, write its files
/// to the disk. One that does not answer is kept as it stands: it must not escape its end.
async fn freeze(record: &Record, resources: &Resources, with_memory: bool) {
    let limit = super::volumes::freeze_limit(&record.spec, FREEZE_LIMIT);
    operate(record, resources, Operation::Freeze, limit).await;
    if !with_memory {
        operate(record, resources, Operation::FsFreeze, FLUSH_LIMIT).await;
    }
}

/// Undoes [`freeze`].
pub(crate) async fn thaw(record: &Record, resources: &Resources, with_memory: bool) {
    if !with_memory {
        operate(record, resources, Operation::FsThaw, FREEZE_LIMIT).await;
    }
    operate(record, resources, Operation::Unfreeze, FREEZE_LIMIT).await;
}

async fn operate(record: &Record, resources: &Resources, operation: Operation, limit: Duration) {
    let Some(host) = resources.address() else {
        return;
    };
    let token = record.spec.envd_access_token.as_deref();
    let asking = async {
        let agent = Agent::new(host).with_token(token)?;
        agent.operate(operation, limit).await
    };
    if let Err(error) = asking.await {
        tracing::warn!(sandbox = %record.spec.sandbox_id, operation = operation.path(), error = %chain(&error), "the guest does not take part in being kept");
    }
}

/// Writes what the VM's memory differs in from what it was restored from; all of
/// it where it was booted.
async fn memory(
    shared: &Shared,
    ground: &Ground,
    record: &Record,
    machine: &dyn Machine,
    mut buffer: Vec<u8>,
    captured: &mut Captured,
) -> Result<(), Error> {
    let Some(stack) = &ground.memory else {
        let own = shared.journals.dir(&record.spec.sandbox_id);
        let (from, to) = (own.join(setup::MEMORY_FILE), captured.path(MEMORY_FILE));
        let purpose = captured.purpose;
        if purpose == Purpose::Snapshot {
            let file = File::open(&from).and_then(|file| sparse::allocated_bytes(&file));
            require_room(shared, file.map_err(Error::step("keep the VM's memory"))?)?;
        }
        blocking("keep the VM's memory", move || {
            whole_memory(&from, &to, purpose)
        })
        .await?;
        captured.add(FileRole::Memory, MEMORY_FILE);
        return Ok(());
    };
    let dirty = machine
        .dirty_memory()
        .await
        .map_err(Error::step("find the memory that was written"))?;
    let (ranges, below) = plan(&*dirty, stack);
    require_room(
        shared,
        ranges.iter().map(|range| range.end - range.start).sum(),
    )?;
    captured.memory_below = below;
    let memory_bytes = stack.build.manifest.shape.memory_mib << 20;
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let total = usize::try_from(total).map_err(Error::step("keep the VM's memory"))?;
    let fits = buffer.len() >= total;
    let pages = if captured.purpose == Purpose::Snapshot && fits {
        buffer.truncate(total);
        let ranges = ranges.clone();
        let copied = blocking("copy the memory that was written", move || {
            dirty.read_all(&ranges, &mut buffer, COPY_THREADS)?;
            Ok(buffer)
        });
        Pages::Copied(copied.await?)
    } else {
        Pages::OfVm(dirty)
    };
    let pending = Pending {
        ranges,
        pages,
        memory_bytes,
    };
    if captured.purpose == Purpose::Snapshot && !fits {
        // There was no memory to copy to: the VM stands still for the disk.
        return write_memory(captured, pending, Vec::new()).await;
    }
    captured.pending = Some(pending);
    Ok(())
}

/// Room to copy the memory to that the VM has written, touched already, so that the
/// VM stands still for no more than the copying; empty where that is too much.
async fn buffer_for(machine: &dyn Machine) -> Vec<u8> {
    let Ok(written) = machine.written_bytes().await else {
        return Vec::new();
    };
    let wanted = written + written / 4 + BUFFER_SPARE_BYTES;
    let available = admission::host_memory_bytes().map_or(0, |(available, _)| available);
    match usize::try_from(wanted) {
        Ok(length) if wanted <= available / 4 => {
            let made = tokio::task::spawn_blocking(move || vec![UNWRITTEN; length]);
            made.await.unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Writes memory as a difference, but for what is in the disk layers, which are given
/// by number and data file.
async fn write_memory(
    captured: &mut Captured,
    pending: Pending,
    layers: Vec<(u32, PathBuf)>,
) -> Result<(), Error> {
    let [data, index] = captured.difference_paths();
    let digest = blocking("keep the memory that was written", move || {
        let mut disk = DiskBlocks::default();
        for (number, path) in layers {
            let file = File::open(path)?;
            if sparse::allocated_bytes(&file)? <= SEARCHED_BYTES {
                disk.add(number, file)?;
            }
        }
        write_difference(&data, &index, &pending, &mut disk)
    })
    .await?;
    captured.staging.digested(MEMORY_DIFFERENCE_FILE, digest);
    captured.add_difference();
    Ok(())
}

fn write_difference(
    data: &Path,
    index: &Path,
    pending: &Pending,
    disk: &mut DiskBlocks,
) -> io::Result<Digest> {
    let Pending {
        ranges,
        pages,
        memory_bytes,
    } = pending;
    let mut starts = Vec::with_capacity(ranges.len());
    let mut next = 0;
    for range in ranges {
        starts.push((range.start, next));
        next += range.end - range.start;
    }
    let read = |offset: u64, part: &mut [u8]| match pages {
        Pages::OfVm(dirty) => dirty.read_at(offset, part),
        Pages::Copied(buffer) => {
            let range = starts.partition_point(|(start, _)| *start <= offset) - 1;
            let (start, at) = starts[range];
            let at = usize::try_from(at + offset - start).map_err(io::Error::other)?;
            part.copy_from_slice(&buffer[at..at + part.len()]);
            Ok(())
        }
    };
    let written = difference::write(&create(data)?, *memory_bytes, ranges, disk, read)?;
    io::Write::write_all(&mut create(index)?, &written.index.encode())?;
    Ok(written.digest)
}

/// Refuses before the disk is full, for others write to it too.
fn require_room(shared: &Shared, bytes: u64) -> Result<(), Error> {
    let available = admission::disk_available_bytes(&shared.config.state_dir)
        .map_err(Error::step("measure the host's free disk space"))?;
    if available < bytes.saturating_add(shared.config.disk_reserve_bytes) {
        return Err(Error::Capacity("the node is out of disk space".to_owned()));
    }
    Ok(())
}

/// Which ranges a difference takes in, and the builds that it then stands on.
fn plan(dirty: &dyn DirtyMemory, stack: &Stack) -> (Vec<Range<u64>>, Vec<hearth_ids::BuildId>) {
    let mut ranges: Vec<_> = dirty
        .runs()
        .iter()
        .map(|run| run.offset..run.offset + run.length)
        .collect();
    let mut chain = stack.memory_chain();
    let pieces = stack
        .memory
        .as_ref()
        .map_or(&[][..], |memory| &memory.pieces);
    if chain.len() > MEMORY_DEPTH || pieces.len() + ranges.len() > MEMORY_PIECES {
        let below = pieces.iter();
        ranges.extend(below.map(|piece| piece.memory_offset..piece.memory_offset + piece.length));
        chain.drain(..chain.len() - 1);
    }
    (difference::joined(ranges, difference::MAX_RUNS), chain)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The memory of a booted VM is a file of its own: a VM that ends leaves it, of one
/// that goes on a copy is made.
fn whole_memory(from: &Path, to: &Path, purpose: Purpose) -> io::Result<()> {
    match purpose {
        Purpose::Snapshot => sparse::copy(from, to).map(drop),
        Purpose::Pause => {
            let file = OpenOptions::new().read(true).write(true).open(from)?;
            sparse::punch_zeros(&file)?;
            fs::hard_link(from, to)
        }
    }
}

/// Makes a captured state a build. The VM may run.
pub(crate) async fn publish(
    shared: &Shared,
    ground: &Ground,
    record: &Record,
    resources: &mut Resources,
    mut captured: Captured,
) -> Result<Build, Error> {
    let below = link_disk(shared, ground, record, resources, &mut captured).await?;
    shared.hooks.reached(Step::DiskLinked)?;
    if let Some(pending) = captured.pending.take() {
        let layers = captured.searched_layers();
        write_memory(&mut captured, pending, layers).await?;
        shared.hooks.reached(Step::MemorySaved)?;
    }
    if captured.keeping.with_memory {
        let secrets = Secrets {
            envd_access_token: record.spec.envd_access_token.clone(),
        };
        secrets
            .write(captured.staging.directory())
            .map_err(Error::step("write what the build keeps for the node"))?;
        captured.add(FileRole::Secrets, SECRETS_FILE);
    }
    let below = Below {
        memory: std::mem::take(&mut captured.memory_below),
        disk: below,
    };
    let like = &ground.disk.build.manifest;
    let here = hearth_microvm::host(&shared.engine.capabilities());
    let draft = Draft {
        kind: match captured.purpose {
            Purpose::Pause => Kind::Pause,
            Purpose::Snapshot => Kind::Snapshot,
        },
        name: None,
        shape: like.shape,
        // What the guest ran on: not what its template was made on, nor, after an upgrade of
        // the engine, what the next one would run on.
        engine: EngineVersion {
            name: here.engine.name,
            version: captured.engine_version.unwrap_or(here.engine.version),
        },
        cpu: here.cpu,
        inputs: like.inputs.clone(),
        parents: below.parents(),
        files: captured.files,
    };
    shared
        .builds
        .publish_over(captured.staging, draft, below)
        .await
        .map_err(Error::step("publish the build"))
}

/// Finishes the sealed layers and links their files into the build to be. Returns
/// the builds that these layers stand on.
async fn link_disk(
    shared: &Shared,
    ground: &Ground,
    record: &Record,
    resources: &mut Resources,
    captured: &mut Captured,
) -> Result<Vec<hearth_ids::BuildId>, Error> {
    let own = shared.journals.dir(&record.spec.sandbox_id);
    let layers: Vec<PathBuf> = record
        .disk
        .sealed
        .iter()
        .map(|name| own.join(name))
        .collect();
    let mut sealing = resources
        .disk_mut()
        .map(|disk| std::mem::take(&mut disk.sealing))
        .unwrap_or_default();
    let to = captured.staging.directory().to_owned();
    let mut chain = ground.disk.disk_chain();
    let below = ground.disk.disk.clone();
    let merge = below.layers.len() + layers.len() > DISK_DEPTH;
    let size = ground.disk.build.manifest.shape.disk_mib << 20;
    let (finished, sealing) = tokio::task::spawn_blocking(move || {
        let work = || -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
            while let Some(layer) = sealing.last() {
                layer.finish()?;
                sealing.pop();
            }
            if merge {
                let all: Vec<PathBuf> = below.layers.into_iter().chain(layers).collect();
                let name = "disk-0".to_owned();
                hearth_block::merge(&below.image, &all, size, &to.join(&name))?;
                return Ok(vec![name]);
            }
            let mut names = Vec::new();
            for (number, layer) in layers.iter().enumerate() {
                let name = format!("disk-{number}");
                link_layer(layer, &to.join(&name))?;
                names.push(name);
            }
            Ok(names)
        };
        (work(), sealing)
    })
    .await
    .map_err(Error::step("keep the disk"))?;
    // What could not be made durable is tried again the next time.
    if let Some(disk) = resources.disk_mut() {
        disk.sealing = sealing;
    }
    for name in finished.map_err(|source| Error::Step {
        step: "keep the disk",
        source,
    })? {
        captured.add(FileRole::DiskData, &format!("{name}/data"));
        captured.add(FileRole::DiskIndex, &format!("{name}/index"));
    }
    if merge {
        chain.drain(..chain.len() - 1);
    }
    Ok(chain)
}

fn link_layer(layer: &Path, to: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for name in ["data", "index"] {
        fs::hard_link(layer.join(name), to.join(name))?;
    }
    Ok(())
}
