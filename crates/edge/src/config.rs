//! The edge's limits, with their defaults. Only binaries read files or the
//! environment; they fill these in.

use std::time::Duration;

/// Limits of the proxy towards sandboxes.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// Requests, streams and tunnels open to one sandbox at once; one more gets 429.
    pub max_open_per_sandbox: usize,
    /// Connections kept open without a request, per sandbox and port.
    pub max_idle_per_port: usize,
    /// How long a connection to the guest's agent is kept without a request.
    pub agent_idle_seconds: u64,
    /// The same for all other ports. Short, because common servers close idle
    /// connections after a few seconds.
    pub guest_idle_seconds: u64,
    /// Time for one attempt to connect to a guest's port.
    pub dial_timeout_ms: u64,
    /// Pauses before the second, third, … attempt to connect to a port that refuses.
    pub dial_retry_ms: Vec<u64>,
    /// Whether `X-Forwarded-For` and `X-Forwarded-Proto` of clients are believed
    /// and extended, and their other words of that kind (`Forwarded`, `X-Real-IP`) passed
    /// on; otherwise guests get none of them. Set it only behind a proxy that writes them.
    pub trust_forwarded: bool,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            max_open_per_sandbox: 4096,
            max_idle_per_port: 32,
            agent_idle_seconds: 60,
            guest_idle_seconds: 3,
            dial_timeout_ms: 3000,
            dial_retry_ms: vec![100, 200, 300, 400],
            trust_forwarded: false,
        }
    }
}

/// Limits of the listening side.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Threads that carry connections; 0 means one per processor.
    pub threads: usize,
    /// Client connections open at once on all ports together. One more is closed, as
    /// long as there is room that is kept for this machine; without that it waits in
    /// the kernel's accept queue.
    pub max_connections: usize,
    /// The same from one address (of IPv6, one network of 64 bits); one more is closed.
    /// Those from this machine are not counted. 0: any number, as behind a proxy that
    /// all come through.
    pub max_connections_per_address: usize,
    /// Time from a request's first byte (or, for a connection's first request, from
    /// accept) to the end of its head.
    pub header_timeout_ms: u64,
    /// How long a connection without a request is kept. More than 600 s, the time
    /// that load balancers in front keep theirs.
    pub idle_timeout_ms: u64,
    /// Largest request head in bytes; more gets 431.
    pub max_head_bytes: usize,
    /// HTTP/2 streams open at once on one connection.
    pub max_streams: u32,
    /// Time that open requests get to end after shutdown began.
    pub drain_timeout_ms: u64,
    /// What servers share; without it each has the connections above for itself.
    pub budget: Option<crate::Budget>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            max_connections: 16_384,
            max_connections_per_address: 1024,
            header_timeout_ms: 30_000,
            idle_timeout_ms: 620_000,
            max_head_bytes: 64 * 1024,
            max_streams: 1024,
            drain_timeout_ms: 10_000,
            budget: None,
        }
    }
}

impl ServerConfig {
    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(crate) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

impl EdgeConfig {
    pub(crate) fn idle_limit(&self, port: u16) -> Duration {
        Duration::from_secs(if port == crate::AGENT_PORT {
            self.agent_idle_seconds
        } else {
            self.guest_idle_seconds
        })
    }

    pub(crate) fn dial_timeout(&self) -> Duration {
        Duration::from_millis(self.dial_timeout_ms)
    }
}
