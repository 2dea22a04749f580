//! `[api]`, `[metrics]` and `[limits]`: where the API listens, and what the first team may.

use super::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// The API in plain HTTP. Its ports serve the sandboxes too, by headers or host name.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Address to listen on. `0.0.0.0` lets other machines connect.
    pub address: IpAddr,
    /// TCP port of the API; 0 for none.
    pub port: u16,
    /// A second plain-HTTP port with the same service; 0 for none.
    pub edge_port: u16,
    /// What clients append to `<port>-<sandbox id>.`, with the TLS port unless that is
    /// 443. Without it: `localhost:<TLS port>`.
    #[schemars(example = "sandboxes.example.com")]
    pub domain: Option<String>,
    /// File with the token of at least 32 characters that operators show as
    /// `X-Admin-Token`. Without it: `keys/admin-token` in the state directory, which the
    /// first start makes and root alone can read.
    #[schemars(example = "/etc/hearth/admin-token")]
    pub admin_token_file: Option<PathBuf>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 3000,
            edge_port: 3002,
            domain: None,
            admin_token_file: None,
        }
    }
}

/// `host` is the domain without its port, as [`super::Settings::domain_host`] answers it.
pub(super) fn check_domain(host: &str) -> Result<(), Problem> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if host.is_empty() || host.starts_with('.') || host.ends_with('.') || !host.chars().all(fits) {
        return Err(Problem::new(
            "api.domain",
            format!("must be a host name in lower case, with or without a port, not {host:?}"),
        ));
    }
    Ok(())
}

/// Prometheus metrics in plain HTTP under `/metrics`. No key is asked for: use an address
/// that only the scraper reaches.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Address to listen on.
    pub address: IpAddr,
    /// TCP port; 0 for none.
    pub port: u16,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 3004,
        }
    }
}

/// Limits of the first team, set at each start until `hearth team limits` sets others.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Sandboxes that may run at the same time; one more is refused with 429.
    pub concurrent_sandboxes: u32,
    /// Processors that all running sandboxes may have together; 4294967295 is no limit.
    pub total_vcpus: u32,
    /// MiB of memory that all running sandboxes may have together; 4294967295 is no limit.
    pub total_memory_mib: u32,
    /// The longest time, in hours, that a sandbox may be given at once.
    pub max_length_hours: u32,
    /// Template builds that may be in progress, waiting ones among them.
    pub concurrent_builds: usize,
    /// Sandboxes that may be paused. One whose time is over is paused all the same.
    pub paused_sandboxes: u32,
    /// Snapshots that may be kept, each name counted once.
    pub snapshots: u32,
    /// Templates, snapshots not counted.
    pub templates: u32,
    /// MiB of disk that all builds of templates and snapshots may account for.
    pub stored_mib: u32,
    /// Volumes that may be kept.
    pub volumes: u32,
    /// MiB of disk that one volume, of whichever team, may take.
    pub volume_mib: u32,
    /// Files and directories that one volume, of whichever team, may have.
    pub volume_entries: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            concurrent_sandboxes: 100,
            total_vcpus: u32::MAX,
            total_memory_mib: u32::MAX,
            max_length_hours: 24,
            concurrent_builds: 20,
            paused_sandboxes: 1000,
            snapshots: 1000,
            templates: 500,
            stored_mib: 512 << 10,
            volumes: 100,
            volume_mib: 64 << 10,
            volume_entries: 2_000_000,
        }
    }
}
