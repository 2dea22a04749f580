//! The port to the agent in a guest, as far as the control plane needs it.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use std::net::IpAddr;

/// One sample of a guest's resources. Sizes are bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentMetrics {
    pub at: DateTime<Utc>,
    pub cpu_count: u32,
    /// Percent of one core.
    pub cpu_used_pct: f64,
    pub mem_used: u64,
    pub mem_total: u64,
    pub mem_cache: u64,
    pub disk_used: u64,
    pub disk_total: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the guest's agent cannot be reached: {0}")]
    Unreachable(String),
    #[error("the guest's agent answered with status {0}")]
    Refused(u16),
    #[error("the guest's agent sent what cannot be read: {0}")]
    Malformed(String),
}

#[async_trait]
pub trait Agent: Send + Sync + 'static {
    /// Asks the agent behind `address` for a sample.
    async fn metrics(
        &self,
        address: IpAddr,
        token: Option<&SecretString>,
    ) -> Result<AgentMetrics, AgentError>;
}
