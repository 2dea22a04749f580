//! The settings of template builds, and what all of them use.

use crate::{cache::Cache, files::Files, log::LogLimits, vm_records::VmRecords};
use hearth_block::IoLimits;
use hearth_builder::Artefacts;
use hearth_machine::Engine;
use hearth_network::SlotPool;
use hearth_snapshot::{BuildCache, Component};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

#[derive(Debug, Clone)]
pub struct Config {
    /// Holds uploaded files, cached layers and images, and the records of builds.
    /// On the file system of the builds' store.
    pub state_dir: PathBuf,
    /// For sockets: short.
    pub run_dir: PathBuf,
    pub guest: Guest,
    /// Servers for a template's resolver.
    pub nameservers: Vec<IpAddr>,
    /// Certificates, in PEM, that builds and templates trust beside the usual.
    pub ca_bundle: Option<String>,
    /// Variables of the commands of builds, such as the site's proxies. Templates do
    /// not keep them, and a cached step stays cached when they change.
    pub env: BTreeMap<String, String>,
    pub registries: hearth_oci::Registries,
    /// Installs what images lack beside bash, which is always installed.
    pub install_packages: bool,
    pub limits: Limits,
}

/// Where the certificates of a site are found in a guest: all of them, and its own
/// alone.
const GUEST_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const GUEST_CERTIFICATE: &str = "/usr/local/share/ca-certificates/e2b-ca.crt";
/// Programs that do not look there of themselves.
const BUNDLE_VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"];

impl Config {
    /// Variables of the commands of builds, those of the certificates included.
    pub(crate) fn build_env(&self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        if self.ca_bundle.is_some() {
            for name in BUNDLE_VARIABLES {
                env.insert(name.to_owned(), GUEST_BUNDLE.to_owned());
            }
            let node = "NODE_EXTRA_CA_CERTS".to_owned();
            env.insert(node, GUEST_CERTIFICATE.to_owned());
        }
        env.extend(self.env.clone());
        env
    }
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Builds that run at once; more wait.
    pub concurrent: usize,
    /// Builds that wait; more are refused.
    pub waiting: usize,
    /// From a build's turn to its end.
    pub build_time: Duration,
    /// From the start command to a ready command that succeeds.
    pub ready_time: Duration,
    /// A template's disk, unless its image or the caller needs more.
    pub disk_mib: u64,
    /// The largest disk of a template.
    pub max_disk_mib: u64,
    /// Disk space for cached layers, and again for cached images, in bytes.
    pub cache_bytes: u64,
    /// The largest archive of COPY sources, in bytes.
    pub upload_bytes: u64,
    /// Space on the host's disk that builds leave free, in bytes.
    pub disk_reserve_bytes: u64,
    /// What a build's VM may do of what costs the host's disk something.
    pub disk_io: IoLimits,
    /// The host's memory that builds leave free, in bytes.
    pub memory_reserve_bytes: u64,
    pub log: LogLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent: 2,
            waiting: 64,
            build_time: Duration::from_secs(3600),
            ready_time: Duration::from_secs(600),
            disk_mib: 4096,
            max_disk_mib: 25_600,
            cache_bytes: 20 << 30,
            upload_bytes: 8 << 30,
            disk_reserve_bytes: 1 << 30,
            disk_io: IoLimits::default(),
            memory_reserve_bytes: 256 << 20,
            log: LogLimits::default(),
        }
    }
}

/// What build VMs boot, as the last preparation left it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guest {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub kernel_component: Component,
    pub initramfs_component: Component,
    pub agent_component: Component,
}

impl Guest {
    #[must_use]
    pub fn of(artefacts: &Artefacts, agent_version: &str) -> Self {
        let Artefacts {
            kernel, initramfs, ..
        } = artefacts;
        Self {
            kernel: kernel.vmlinux.clone(),
            initramfs: initramfs.path.clone(),
            kernel_component: Component::new(&kernel.version, kernel.digest),
            initramfs_component: Component::new(agent_version, initramfs.digest),
            agent_component: Component::new(agent_version, initramfs.agent_digest),
        }
    }

    /// The archive of the kernel's modules; none beside a kernel of an older Hearth.
    pub(crate) fn module_tree(&self) -> Option<PathBuf> {
        let path = self
            .kernel
            .with_file_name(hearth_builder::kernel::MODULE_TREE);
        path.exists().then_some(path)
    }

    /// # Errors
    /// When the file is not there or not what [`Self::save`] wrote.
    pub fn load(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Writes the file anew, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(new, path)
    }
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) slots: SlotPool,
    pub(crate) store: Arc<dyn BuildCache>,
    pub(crate) vm_records: VmRecords,
    pub(crate) files: Files,
    pub(crate) cache: Arc<Cache>,
}
