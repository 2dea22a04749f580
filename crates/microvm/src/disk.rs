//! A VM's disk: a copy-on-write device, and the server that the VM reads it from.

use crate::{Error, names};
use hearth_block::{
    Device, DeviceConfig, IoLimits, SealingLayer, WritableConfig,
    server::{self, ServerConfig, ServerHandle},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Whether the layer that takes the writes is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It is made.
    Create,
    /// It may be there, with what it took before.
    OpenOrCreate,
}

/// What a disk is made of.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Raw image at the bottom.
    pub image: PathBuf,
    /// Layers upon it, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Directory of the layer that takes the writes.
    pub writable: PathBuf,
    /// Whether that layer is there already.
    pub opening: Opening,
    /// What the writable layer may take; no limit when absent.
    pub limit_bytes: Option<u64>,
    /// Space on the host's disk that the guest's writes leave free.
    pub reserve_bytes: u64,
    /// What the guest may do of what costs the host's disk something.
    pub io: IoLimits,
    /// What the guest sees, a multiple of 4096.
    pub size_bytes: u64,
}

/// A disk that is served.
pub struct ServedDisk {
    /// What the server serves; readable on after the VM has ended.
    pub device: Arc<Device>,
    /// Layers that take no more writes but are not known to be durable yet.
    pub sealing: Vec<SealingLayer>,
    server: ServerHandle,
    /// The writable layer, where it was made with this disk.
    fresh: Option<PathBuf>,
}

/// Who may connect to a disk's server, and where.
pub(crate) struct Client<'a> {
    pub(crate) run_dir: &'a Path,
    pub(crate) uid: u32,
    pub(crate) cgroup: &'a str,
}

impl ServedDisk {
    /// Opens a disk and serves it to the processes of a VM's control group alone.
    pub(crate) async fn serve(disk: &Disk, client: Client<'_>) -> Result<Self, Error> {
        let fresh = disk.opening == Opening::Create || !disk.writable.exists();
        let fresh = fresh.then(|| disk.writable.clone());
        let device = Arc::new(open(disk).await?);
        let cgroup = client.cgroup.to_owned();
        let config = ServerConfig {
            owner: Some((client.uid, client.uid)),
            limits: disk.io,
            admission: server::Admission::by(move |pid| {
                // This process, too: it connects on behalf of the kernel.
                pid == std::process::id() || hearth_confine::is_member(&cgroup, pid)
            }),
            ..ServerConfig::new(client.run_dir.join(names::DISK_SOCKET), names::EXPORT)
        };
        let server = server::serve(&config, Arc::clone(&device)).map_err(Error::ServeDisk)?;
        Ok(Self {
            device,
            sealing: Vec::new(),
            server,
            fresh,
        })
    }

    /// Lifts the limits of its use for as long as the answer lives: for whoever waits until
    /// the guest has written.
    pub fn unlimited(&self) -> server::Unlimited {
        self.server.unlimited()
    }

    /// Whether somebody reads from the server.
    pub(crate) fn is_connected(&self) -> bool {
        self.server.connections() > 0
    }

    /// Ends the server; the device stays readable for whoever else holds it.
    pub(crate) async fn close(self) -> Option<PathBuf> {
        self.server.stop().await;
        self.fresh
    }
}

async fn open(disk: &Disk) -> Result<Device, Error> {
    let config = DeviceConfig {
        base: Some(disk.image.clone()),
        layers: disk.layers.clone(),
        writable: Some(WritableConfig {
            directory: disk.writable.clone(),
            limit_bytes: disk.limit_bytes,
            reserve_bytes: disk.reserve_bytes,
        }),
        size_bytes: disk.size_bytes,
    };
    let opening = disk.opening;
    let opened = tokio::task::spawn_blocking(move || match opening {
        Opening::Create => Device::create(&config),
        Opening::OpenOrCreate => Device::open_or_create(&config),
    });
    opened.await.map_err(Error::Task)?.map_err(Error::OpenDisk)
}
