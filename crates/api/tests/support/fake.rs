//! A node without machines: a map, a clock, and failures on demand.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_control::{
    Agent, AgentError, AgentMetrics, Node, NodeError, NodeInfo, NodeSandbox, NodeSandboxState,
    SandboxConfig, SandboxUpdate,
};
use hearth_ids::{BuildId, SandboxId};
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

pub struct FakeNode {
    pub sandboxes: Mutex<BTreeMap<SandboxId, NodeSandbox>>,
    /// How often a create began.
    pub creates: AtomicUsize,
    /// What the next creates fail with.
    pub failure: Mutex<Option<NodeError>>,
    /// A create that fails makes its sandbox in spite of that.
    pub creates_anyway: Mutex<bool>,
    /// Creates wait for a permit each.
    pub gate: Semaphore,
}

impl Default for FakeNode {
    fn default() -> Self {
        Self {
            sandboxes: Mutex::default(),
            creates: AtomicUsize::new(0),
            failure: Mutex::default(),
            creates_anyway: Mutex::new(false),
            gate: Semaphore::new(1_000_000),
        }
    }
}

impl FakeNode {
    pub fn fail_creates(&self, error: Option<NodeError>) {
        *self.failure.lock().expect("unpoisoned") = error;
    }

    pub fn count(&self) -> usize {
        self.sandboxes.lock().expect("unpoisoned").len()
    }

    pub fn change(&self, id: &str, change: impl FnOnce(&mut NodeSandbox)) {
        let id: SandboxId = id.parse().expect("an id");
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        change(sandboxes.get_mut(&id).expect("a sandbox"));
    }

    pub fn sandbox(&self, id: &str) -> NodeSandbox {
        let id: SandboxId = id.parse().expect("an id");
        self.sandboxes.lock().expect("unpoisoned")[&id].clone()
    }

    fn insert(&self, config: SandboxConfig, end_at: DateTime<Utc>) -> NodeSandbox {
        let sandbox = NodeSandbox {
            config,
            state: NodeSandboxState::Running,
            started_at: Utc::now(),
            end_at,
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 2048,
            envd_version: "0.6.13".to_owned(),
            execution_id: "e".to_owned(),
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        self.sandboxes
            .lock()
            .expect("unpoisoned")
            .insert(sandbox.config.sandbox_id.clone(), sandbox.clone());
        sandbox
    }
}

fn not_found(id: &SandboxId) -> NodeError {
    NodeError::NotFound(format!("sandbox {id} is not on this node"))
}

#[async_trait]
impl Node for FakeNode {
    async fn create(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
    ) -> Result<NodeSandbox, NodeError> {
        self.creates.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.expect("open").forget();
        let id = config.sandbox_id.clone();
        if self.sandboxes.lock().expect("unpoisoned").contains_key(&id) {
            return Err(NodeError::AlreadyExists(format!("sandbox {id} exists")));
        }
        let failure = self.failure.lock().expect("unpoisoned").clone();
        if let Some(error) = failure {
            if *self.creates_anyway.lock().expect("unpoisoned") {
                self.insert(config, end_at);
            }
            return Err(error);
        }
        Ok(self.insert(config, end_at))
    }

    async fn update(
        &self,
        id: &SandboxId,
        update: SandboxUpdate,
    ) -> Result<NodeSandbox, NodeError> {
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let sandbox = sandboxes.get_mut(id).ok_or_else(|| not_found(id))?;
        if let Some(end_at) = update.end_at
            && (!update.only_extend || end_at > sandbox.end_at)
        {
            sandbox.end_at = end_at;
        }
        if let Some(network) = update.network {
            sandbox.config.network = Some(network);
        }
        Ok(sandbox.clone())
    }

    async fn list(&self) -> Result<Vec<NodeSandbox>, NodeError> {
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        Ok(sandboxes.values().cloned().collect())
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), NodeError> {
        let removed = self.sandboxes.lock().expect("unpoisoned").remove(id);
        removed.map(drop).ok_or_else(|| not_found(id))
    }

    async fn pause(&self, _: &SandboxId, _: BuildId, _: bool) -> Result<(), NodeError> {
        Err(NodeError::Unimplemented("pausing".to_owned()))
    }

    async fn checkpoint(&self, _: &SandboxId, _: BuildId) -> Result<(), NodeError> {
        Err(NodeError::Unimplemented("checkpoints".to_owned()))
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        Err(NodeError::Unimplemented("info".to_owned()))
    }
}

/// An agent that answers a fixed sample, or does not answer.
#[derive(Default)]
pub struct FakeAgent {
    pub away: Mutex<bool>,
}

#[async_trait]
impl Agent for FakeAgent {
    async fn metrics(
        &self,
        _address: IpAddr,
        _token: &SecretString,
    ) -> Result<AgentMetrics, AgentError> {
        if *self.away.lock().expect("unpoisoned") {
            return Err(AgentError::Unreachable("away".to_owned()));
        }
        Ok(AgentMetrics {
            at: DateTime::from_timestamp(1_700_000_000, 0).expect("in range"),
            cpu_count: 2,
            cpu_used_pct: 12.5,
            mem_used: 1,
            mem_total: 2,
            mem_cache: 3,
            disk_used: 4,
            disk_total: 5,
        })
    }
}
