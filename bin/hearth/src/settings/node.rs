//! `[node]`: how much of this machine sandboxes take, and the node's gRPC service.

use super::Problem;
use hearth_block::IoLimits;
use hearth_node::config as defaults;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What a sandbox saves up of disk operations: booting and starting services come at once.
const DISK_BURST_SECONDS: u32 = 10;

/// Which engine runs sandboxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// Whichever Hearth thinks best: QEMU today.
    #[default]
    Auto,
    /// QEMU, on KVM or emulating.
    Qemu,
    /// Firecracker, on KVM.
    Firecracker,
}

/// How much of this machine sandboxes take, and the node's gRPC service.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// The engine that runs sandboxes: `qemu`, `firecracker`, or `auto`, which is `qemu`
    /// today. What an engine has saved, only it restores: see `docs/engines.md` before
    /// you change it.
    pub engine: EngineChoice,
    /// The Firecracker program, whose file name begins with `firecracker`. Else the first
    /// one of `PATH` is taken.
    #[schemars(example = "/usr/local/bin/firecracker")]
    pub firecracker: Option<PathBuf>,
    /// Sandboxes that run on this node at most, those of all teams together.
    pub max_sandboxes: usize,
    /// The host's memory, in MiB, that starting sandboxes leave free.
    pub memory_reserve_mib: u64,
    /// Space on the disk of `state_dir`, in MiB, that starting sandboxes leave free.
    pub disk_reserve_mib: u64,
    /// Operations per second that one sandbox, or build, may have the host's disk do in
    /// the long run: reads that are not in the page cache, writes, flushes, discards. One
    /// that was idle may do ten seconds' worth at once. 0 for any number.
    pub disk_operations_per_second: u32,
    /// MiB per second that one sandbox, or build, may read from the host's disk and write
    /// to it, in the same way. 0 for any number.
    pub disk_mib_per_second: u32,
    /// Warm sandboxes kept of each template in use: a create that finds one takes a
    /// fraction of the time. Each takes some 60 MiB; 0 for none. Formerly `spares`, a
    /// name that is still read.
    #[serde(alias = "spares")]
    pub warm_pool_size: usize,
    /// The share of the host's memory, in percent, that the warm sandboxes of all
    /// templates may take together, each counted as 128 MiB; those of the template that
    /// was used the longest ago give way first.
    pub warm_pool_memory_percent: u8,
    /// File with certificates (PEM) of authorities that every sandbox's tools trust
    /// beside the usual ones, such as a company's. Builds too, unless `builds.ca_file`
    /// says otherwise.
    #[schemars(example = "/etc/hearth/company-ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// Listens beyond loopback although guests are emulated. Emulation (QEMU's TCG) is
    /// for trying and testing: its makers do not promise that it keeps hostile code in.
    pub allow_emulation: bool,
    /// Keeps guests' consoles in `<run_dir>/sb/<id>/console.log`.
    pub keep_consoles: bool,
    /// TCP address at which the control plane of a cluster reaches this machine, over mutual
    /// TLS: for `hearth node run` alone, on a machine that has joined.
    #[schemars(example = "0.0.0.0:5008")]
    pub listen: Option<SocketAddr>,
    /// `HOST:PORT` that the control plane is told for `node.listen`. Without it: that address,
    /// or, where it is one for all of the machine's, the machine's name and its port.
    #[schemars(example = "node1.example.com:5008")]
    pub advertise: Option<String>,
    /// TCP address of the node's gRPC service, beside its unix socket. Goes with
    /// `node.grpc_token_file`.
    #[schemars(example = "127.0.0.1:3005")]
    pub grpc_address: Option<SocketAddr>,
    /// File that holds the token for `node.grpc_address`, at least 32 characters.
    #[schemars(example = "/etc/hearth/grpc-token")]
    pub grpc_token_file: Option<PathBuf>,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            firecracker: None,
            max_sandboxes: defaults::DEFAULT_MAX_SANDBOXES,
            memory_reserve_mib: defaults::DEFAULT_MEMORY_RESERVE_BYTES >> 20,
            disk_reserve_mib: defaults::DEFAULT_DISK_RESERVE_BYTES >> 20,
            disk_operations_per_second: 10_000,
            disk_mib_per_second: 300,
            warm_pool_size: defaults::DEFAULT_WARM_POOL_SIZE,
            warm_pool_memory_percent: defaults::DEFAULT_WARM_POOL_MEMORY_PERCENT,
            ca_file: None,
            allow_emulation: false,
            keep_consoles: false,
            listen: None,
            advertise: None,
            grpc_address: None,
            grpc_token_file: None,
        }
    }
}

impl NodeSettings {
    /// What each sandbox may do of what costs the host's disk something.
    pub fn disk_io(&self) -> IoLimits {
        IoLimits {
            operations_per_second: self.disk_operations_per_second,
            bytes_per_second: u64::from(self.disk_mib_per_second) << 20,
            burst_seconds: DISK_BURST_SECONDS,
        }
    }

    /// What the control plane is told of where this node is.
    pub fn advertised(&self, machine: &str) -> String {
        match (&self.advertise, self.listen) {
            (Some(address), _) => address.clone(),
            (None, Some(address)) if !address.ip().is_unspecified() => address.to_string(),
            (None, address) => {
                format!("{machine}:{}", address.map_or(0, |address| address.port()))
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.listen.is_some_and(|address| address.port() == 0) {
            let why = "needs a port that the control plane can be told, such as 5008";
            return Err(Problem::new("node.listen", why));
        }
        if self.advertise.is_some() && self.listen.is_none() {
            return Err(Problem::new("node.advertise", "needs node.listen too"));
        }
        if self.warm_pool_memory_percent > 100 {
            return Err(Problem::new(
                "node.warm_pool_memory_percent",
                "must be at most 100",
            ));
        }
        match (&self.grpc_address, &self.grpc_token_file) {
            (Some(_), None) => Err(Problem::new(
                "node.grpc_address",
                "needs node.grpc_token_file too: the port is never open",
            )),
            (None, Some(_)) => Err(Problem::new(
                "node.grpc_token_file",
                "needs node.grpc_address too",
            )),
            _ => Ok(()),
        }
    }
}
