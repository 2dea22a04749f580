//! `[edge]` and `[connections]`: the proxy to sandboxes and the listening side.

use super::Problem;
use hearth_edge::{EdgeConfig, ServerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of the proxy towards sandboxes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeSettings {
    /// Requests, streams and tunnels open to one sandbox at once; one more is answered
    /// with 429.
    pub max_open_per_sandbox: usize,
    /// Connections kept open without a request, per sandbox and port.
    pub max_idle_per_port: usize,
    /// Seconds that a connection to the guest's agent is kept without a request.
    pub agent_idle_seconds: u64,
    /// The same for all other ports. Short, because common servers close idle
    /// connections after a few seconds.
    pub guest_idle_seconds: u64,
    /// Milliseconds for one attempt to connect to a guest's port.
    pub dial_timeout_ms: u64,
    /// Milliseconds to wait before the second, third, … attempt to connect to a port
    /// that refuses.
    pub dial_retry_ms: Vec<u64>,
    /// Whether `X-Forwarded-For` and `X-Forwarded-Proto` of clients are believed and
    /// extended. Set it only behind a proxy that writes them.
    pub trust_forwarded: bool,
}

impl Default for EdgeSettings {
    fn default() -> Self {
        let EdgeConfig {
            max_open_per_sandbox,
            max_idle_per_port,
            agent_idle_seconds,
            guest_idle_seconds,
            dial_timeout_ms,
            dial_retry_ms,
            trust_forwarded,
        } = EdgeConfig::default();
        Self {
            max_open_per_sandbox,
            max_idle_per_port,
            agent_idle_seconds,
            guest_idle_seconds,
            dial_timeout_ms,
            dial_retry_ms,
            trust_forwarded,
        }
    }
}

impl EdgeSettings {
    /// The edge's own form.
    pub fn config(&self) -> EdgeConfig {
        EdgeConfig {
            max_open_per_sandbox: self.max_open_per_sandbox,
            max_idle_per_port: self.max_idle_per_port,
            agent_idle_seconds: self.agent_idle_seconds,
            guest_idle_seconds: self.guest_idle_seconds,
            dial_timeout_ms: self.dial_timeout_ms,
            dial_retry_ms: self.dial_retry_ms.clone(),
            trust_forwarded: self.trust_forwarded,
        }
    }
}

/// Limits of clients' connections, on all ports together.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionSettings {
    /// Threads that carry connections; 0 for one per processor.
    pub threads: usize,
    /// Client connections open at once on all ports together. One more is closed, as
    /// long as there is room that is kept for this machine; without that it waits in the
    /// kernel's accept queue. 1 to 16777216.
    pub max_connections: usize,
    /// The same from one address (of IPv6, one network of 64 bits); one more is closed.
    /// Those from this machine are not counted. 0 for any number, as behind a proxy that
    /// all come through.
    pub max_connections_per_address: usize,
    /// Milliseconds from a request's first byte (or, for a connection's first request,
    /// from accept) to the end of its head.
    pub header_timeout_ms: u64,
    /// Milliseconds that a connection without a request is kept. The default is more
    /// than the 600 s for which load balancers in front keep theirs.
    pub idle_timeout_ms: u64,
    /// Largest request head in bytes; a larger one is answered with 431.
    pub max_head_bytes: usize,
    /// HTTP/2 streams open at once on one connection.
    pub max_streams: u32,
    /// Milliseconds that open requests get to end after shutdown began.
    pub drain_timeout_ms: u64,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        let ServerConfig {
            threads,
            max_connections,
            max_connections_per_address,
            header_timeout_ms,
            idle_timeout_ms,
            max_head_bytes,
            max_streams,
            drain_timeout_ms,
            budget: _,
        } = ServerConfig::default();
        Self {
            threads,
            max_connections,
            max_connections_per_address,
            header_timeout_ms,
            idle_timeout_ms,
            max_head_bytes,
            max_streams,
            drain_timeout_ms,
        }
    }
}

impl ConnectionSettings {
    /// The edge's own form, without a budget that servers share.
    pub fn config(&self) -> ServerConfig {
        ServerConfig {
            threads: self.threads,
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_address,
            header_timeout_ms: self.header_timeout_ms,
            idle_timeout_ms: self.idle_timeout_ms,
            max_head_bytes: self.max_head_bytes,
            max_streams: self.max_streams,
            drain_timeout_ms: self.drain_timeout_ms,
            budget: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), Problem> {
        // More than a host has descriptors for; sums with it stay far from an overflow.
        const MOST_CONNECTIONS: usize = 1 << 24;
        if !(1..=MOST_CONNECTIONS).contains(&self.max_connections) {
            return Err(Problem::new(
                "connections.max_connections",
                format!("must be between 1 and {MOST_CONNECTIONS}"),
            ));
        }
        Ok(())
    }
}
