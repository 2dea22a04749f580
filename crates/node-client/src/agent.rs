//! The client of a guest's agent. A guest is not trusted: its answers are bounded
//! in time and size.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use hearth_control::{Agent, AgentError, AgentMetrics};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PORT: u16 = 49983;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Asks the agents of sandboxes over HTTP.
pub struct AgentClient {
    http: Client<HttpConnector, Empty<Bytes>>,
    port: u16,
}

impl Default for AgentClient {
    fn default() -> Self {
        Self::with_port(PORT)
    }
}

impl AgentClient {
    /// A client of agents on their usual port.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of agents that listen on another port than theirs in a guest.
    #[must_use]
    pub fn with_port(port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            // An address may be another sandbox's by the next call.
            .pool_max_idle_per_host(0)
            .build(connector);
        Self { http, port }
    }

    async fn fetch(
        &self,
        address: IpAddr,
        path: &str,
        token: Option<&SecretString>,
    ) -> Result<Bytes, AgentError> {
        let unreachable =
            |error: &dyn std::error::Error| AgentError::Unreachable(error.to_string());
        let authority = SocketAddr::new(address, self.port);
        let uri: Uri = format!("http://{authority}{path}")
            .parse()
            .map_err(|error: http::uri::InvalidUri| unreachable(&error))?;
        let mut request = Request::get(uri);
        if let Some(token) = token {
            request = request.header("X-Access-Token", token.expose_secret());
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| unreachable(&error))?;
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| unreachable(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(AgentError::Refused(status.as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        match body.collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(AgentError::Malformed(error.to_string())),
        }
    }
}

/// The agent's own names for what it measures.
#[derive(Deserialize)]
struct Metrics {
    ts: i64,
    cpu_count: u32,
    cpu_used_pct: f64,
    mem_total: u64,
    mem_used: u64,
    #[serde(default)]
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

#[async_trait]
impl Agent for AgentClient {
    async fn metrics(
        &self,
        address: IpAddr,
        token: Option<&SecretString>,
    ) -> Result<AgentMetrics, AgentError> {
        let fetch = self.fetch(address, "/metrics", token);
        let body = tokio::time::timeout(TIMEOUT, fetch)
            .await
            .map_err(|_| AgentError::Unreachable("no answer in time".to_owned()))??;
        let metrics: Metrics = serde_json::from_slice(&body)
            .map_err(|error| AgentError::Malformed(error.to_string()))?;
        let at = DateTime::<Utc>::from_timestamp(metrics.ts, 0)
            .ok_or_else(|| AgentError::Malformed(format!("time {}", metrics.ts)))?;
        Ok(AgentMetrics {
            at,
            cpu_count: metrics.cpu_count,
            cpu_used_pct: metrics.cpu_used_pct,
            mem_used: metrics.mem_used,
            mem_total: metrics.mem_total,
            mem_cache: metrics.mem_cache,
            disk_used: metrics.disk_used,
            disk_total: metrics.disk_total,
        })
    }
}
