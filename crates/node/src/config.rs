//! The node's settings. Only binaries read the environment; they fill this.

use hearth_block::IoLimits;
use hearth_volumes::Volumes;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// Sandboxes that one node runs at most, unless configured.
pub const DEFAULT_MAX_SANDBOXES: usize = 256;
/// Host memory, in bytes, that starts leave free, unless configured.
pub const DEFAULT_MEMORY_RESERVE_BYTES: u64 = 512 << 20;
/// Host disk space, in bytes, that starts leave free, unless configured.
pub const DEFAULT_DISK_RESERVE_BYTES: u64 = 256 << 20;
/// How long the agent may take to answer its settings after a restore.
pub const DEFAULT_AGENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Warm sandboxes of each template in use, unless configured.
pub const DEFAULT_WARM_POOL_SIZE: usize = 4;
/// The share of the host's memory for all warm sandboxes, unless configured.
pub const DEFAULT_WARM_POOL_MEMORY_PERCENT: u8 = 25;

#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub node_id: String,
    /// Holds `sandboxes/<id>/`: journals and writable disk layers.
    pub state_dir: PathBuf,
    /// Holds `sb/<id>/`: sockets and consoles. Short, for unix sockets' sake.
    pub run_dir: PathBuf,
    pub max_sandboxes: usize,
    pub memory_reserve_bytes: u64,
    pub disk_reserve_bytes: u64,
    /// What each sandbox may do of what costs the host's disk something.
    pub disk_io: IoLimits,
    pub agent_timeout: Duration,
    /// Warm sandboxes of each template in use; 0 for none.
    pub warm_pool_size: usize,
    /// The share of the host's memory for all warm sandboxes together, each counted
    /// as 128 MiB.
    pub warm_pool_memory_percent: u8,
    pub grpc: GrpcConfig,
    /// Certificates, in PEM, of authorities that every sandbox trusts beside the usual.
    pub ca_bundle: Option<String>,
    /// The services that guests find at the node.
    pub egress: hearth_egress::EgressConfig,
    /// What sandboxes can mount.
    pub volumes: Arc<Volumes>,
}

/// Where the gRPC service listens.
#[derive(Debug, Clone)]
pub struct GrpcConfig {
    /// Unix socket, readable by its owner alone.
    pub socket: PathBuf,
    /// TCP beside it. Never open: every call carries the token.
    pub tcp: Option<TcpConfig>,
    /// Mutual TLS beside it, for the control plane of the cluster that the node is of.
    pub mutual: Option<MutualConfig>,
}

/// Where the control plane reaches the node, and what proves who either is.
#[derive(Debug, Clone)]
pub struct MutualConfig {
    pub address: SocketAddr,
    /// Asks for a certificate of the cluster's authority.
    pub tls: Arc<rustls::ServerConfig>,
}

#[derive(Debug, Clone)]
pub struct TcpConfig {
    pub address: SocketAddr,
    /// Compared with `authorization: Bearer <token>` in constant time.
    pub token: secrecy_token::Token,
}

/// A token that never prints itself.
pub mod secrecy_token {
    /// At least 32 characters.
    #[derive(Clone)]
    pub struct Token(String);

    impl Token {
        /// Refuses tokens too short to be safe against guessing.
        #[must_use]
        pub fn new(text: String) -> Option<Self> {
            (text.len() >= 32).then_some(Self(text))
        }

        pub(crate) fn matches(&self, candidate: &str) -> bool {
            use subtle::ConstantTimeEq;
            self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
        }
    }

    impl std::fmt::Debug for Token {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("Token(..)")
        }
    }
}
