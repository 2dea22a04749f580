//! `hearth snapshot serve`: a build's disk for other programs to read, over NBD or as
//! a block device of this host.

use crate::daemon::signals;
use anyhow::Context as _;
use hearth_block::{
    Device, DeviceConfig,
    kernel::KernelDevice,
    server::{ServerConfig, serve},
};
use hearth_ids::BuildId;
use hearth_snapshot::{BuildCache as _, LocalStore};
use std::{
    io,
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

const EXPORT: &str = "disk";
/// How often a mounted device is looked at again.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// ID of the build
    build: BuildId,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
#[group(required = true)]
struct Place {
    /// Serve NBD on a unix socket at this path, for qemu-img, nbdcopy, nbdinfo and others
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Make it a block device that can be mounted: the first that is free, or the one given
    #[arg(long, value_name = "/dev/nbdN", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "absent, without a value, with one")]
    device: Option<Option<PathBuf>>,
}

pub(super) async fn run(store: &LocalStore, args: Args) -> anyhow::Result<ExitCode> {
    let stack = store.stack(args.build).await?;
    let mib = stack.build.manifest.shape.disk_mib;
    let config = DeviceConfig {
        base: Some(stack.disk.image),
        layers: stack.disk.layers,
        writable: None,
        size_bytes: mib << 20,
    };
    // From here on its files are open: they may be removed meanwhile.
    let device = tokio::task::spawn_blocking(move || Device::open(&config)).await??;
    let own = tempfile::tempdir().context("make a directory for the socket")?;
    let socket = match &args.place.socket {
        Some(path) => std::path::absolute(path)?,
        None => own.path().join("nbd.sock"),
    };
    require_free(&socket)?;
    let server = serve(&ServerConfig::new(&socket, EXPORT), Arc::new(device))?;
    if args.place.socket.is_some() {
        println!(
            "The disk of {} ({mib} MiB, read-only): nbd+unix:///{EXPORT}?socket={}",
            args.build,
            socket.display()
        );
    }
    let served = match args.place.device {
        Some(wanted) => with_device(&socket, wanted, args.build).await,
        None => {
            println!("Ctrl-C ends it.");
            signals::stop().await.map_err(Into::into)
        }
    };
    server.stop().await;
    served.map(|()| ExitCode::SUCCESS)
}

/// Whether a socket can be made there. One that a killed server left is replaced;
/// anything else that has the name is somebody's.
fn require_free(path: &Path) -> anyhow::Result<()> {
    let taken = match std::fs::symlink_metadata(path) {
        Ok(found) => !found.file_type().is_socket() || UnixStream::connect(path).is_ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    };
    anyhow::ensure!(!taken, "{} exists already", path.display());
    Ok(())
}

async fn with_device(socket: &Path, wanted: Option<PathBuf>, build: BuildId) -> anyhow::Result<()> {
    let socket = socket.to_owned();
    let attach = move || KernelDevice::attach(&socket, EXPORT, wanted.as_deref());
    let device = tokio::task::spawn_blocking(attach).await??;
    let path = device.path().display();
    println!("The disk of {build}, read-only: {path}");
    println!("mount -o ro,noload {path} /mnt; Ctrl-C gives it back.");
    signals::stop().await?;
    if device.is_in_use() {
        eprintln!("hearth: {path} is mounted: unmount it, or Ctrl-C once more to cut it off");
    }
    while device.is_attached() && device.is_in_use() {
        tokio::time::sleep(LOOK).await;
    }
    tokio::task::spawn_blocking(move || device.detach()).await??;
    Ok(())
}
