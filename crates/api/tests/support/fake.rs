//! A node without machines: a map, a clock, and failures on demand. It keeps to
//! what the node's protocol says of each call.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_control::{
    Agent, AgentError, AgentMetrics, Node, NodeBuild, NodeError, NodeInfo, NodeSandbox,
    NodeSandboxState, Paused, SandboxConfig, SandboxQuery, SandboxSummary, SandboxUpdate,
};
use hearth_ids::{BuildId, SandboxId};
use secrecy::SecretString;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// One of the node's calls that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Create,
    Update,
    Delete,
    Pause,
    Resume,
    Checkpoint,
    Rollback,
    DeleteBuild,
}

/// A failure to come.
#[derive(Debug, Clone)]
pub struct Fault {
    pub call: Call,
    pub error: NodeError,
    /// The call is carried out in spite of the failure.
    pub done_anyway: bool,
}

pub struct FakeNode {
    pub sandboxes: Mutex<BTreeMap<SandboxId, NodeSandbox>>,
    pub builds: Mutex<BTreeSet<BuildId>>,
    /// How often a create began.
    pub creates: AtomicUsize,
    pub resumes: AtomicUsize,
    pub pauses: AtomicUsize,
    /// How often it was asked for one sandbox, and for lists; and how many sandboxes
    /// it told of in lists.
    pub gets: AtomicUsize,
    pub lists: AtomicUsize,
    pub listed: AtomicUsize,
    /// What the next creates fail with.
    pub failure: Mutex<Option<NodeError>>,
    /// A create that fails makes its sandbox in spite of that.
    pub creates_anyway: Mutex<bool>,
    /// What the next calls fail with, each fault once.
    pub faults: Mutex<VecDeque<Fault>>,
    /// Creates wait for a permit each.
    pub gate: Semaphore,
    /// So does every way from one state to another.
    pub transitions: Semaphore,
}

impl Default for FakeNode {
    fn default() -> Self {
        Self {
            sandboxes: Mutex::default(),
            builds: Mutex::default(),
            creates: AtomicUsize::new(0),
            resumes: AtomicUsize::new(0),
            pauses: AtomicUsize::new(0),
            gets: AtomicUsize::new(0),
            lists: AtomicUsize::new(0),
            listed: AtomicUsize::new(0),
            failure: Mutex::default(),
            creates_anyway: Mutex::new(false),
            faults: Mutex::default(),
            gate: Semaphore::new(1_000_000),
            transitions: Semaphore::new(1_000_000),
        }
    }
}

impl FakeNode {
    pub fn fail_creates(&self, error: Option<NodeError>) {
        *self.failure.lock().expect("unpoisoned") = error;
    }

    pub fn fail_next(&self, call: Call, error: NodeError, done_anyway: bool) {
        let fault = Fault {
            call,
            error,
            done_anyway,
        };
        self.faults.lock().expect("unpoisoned").push_back(fault);
    }

    pub fn count(&self) -> usize {
        self.sandboxes.lock().expect("unpoisoned").len()
    }

    pub fn build_count(&self) -> usize {
        self.builds.lock().expect("unpoisoned").len()
    }

    pub fn change(&self, id: &str, change: impl FnOnce(&mut NodeSandbox)) {
        let id: SandboxId = id.parse().expect("an id");
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        change(sandboxes.get_mut(&id).expect("a sandbox"));
    }

    /// Sandboxes of somebody, made without the API.
    pub fn add(&self, sandbox: NodeSandbox) {
        let id = sandbox.config.sandbox_id.clone();
        self.sandboxes
            .lock()
            .expect("unpoisoned")
            .insert(id, sandbox);
    }

    /// What it was asked since the last time: for one sandbox, for lists, and how
    /// many sandboxes those lists told of.
    pub fn asked(&self) -> (usize, usize, usize) {
        let take = |count: &AtomicUsize| count.swap(0, Ordering::SeqCst);
        (take(&self.gets), take(&self.lists), take(&self.listed))
    }

    pub fn sandbox(&self, id: &str) -> NodeSandbox {
        let id: SandboxId = id.parse().expect("an id");
        self.sandboxes.lock().expect("unpoisoned")[&id].clone()
    }

    /// Pauses without being asked, as at the end of a sandbox's time.
    pub fn pause_now(&self, id: &str, memory: bool) {
        self.change(id, |sandbox| settle_paused(sandbox, memory));
    }

    fn fault(&self, call: Call) -> Option<Fault> {
        let mut faults = self.faults.lock().expect("unpoisoned");
        let index = faults.iter().position(|fault| fault.call == call)?;
        faults.remove(index)
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
            execution_id: uuid::Uuid::new_v4().to_string(),
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            paused: None,
        };
        self.sandboxes
            .lock()
            .expect("unpoisoned")
            .insert(sandbox.config.sandbox_id.clone(), sandbox.clone());
        sandbox
    }

    /// Leads a sandbox from one state over another one to its end, waiting in the
    /// middle for a permit; a fault leads it back.
    async fn transit(
        &self,
        call: Call,
        id: &SandboxId,
        (from, over): (NodeSandboxState, NodeSandboxState),
        arrive: impl FnOnce(&mut NodeSandbox) + Send,
    ) -> Result<NodeSandbox, NodeError> {
        self.with(id, |sandbox| {
            if sandbox.state != from {
                return Err(NodeError::InTransition(format!(
                    "sandbox {id} is {:?}",
                    sandbox.state
                )));
            }
            sandbox.state = over;
            Ok(())
        })?;
        self.transitions.acquire().await.expect("open").forget();
        let fault = self.fault(call);
        self.with(id, |sandbox| match fault {
            Some(fault) => {
                if fault.done_anyway {
                    arrive(sandbox);
                } else {
                    sandbox.state = from;
                }
                Err(fault.error)
            }
            None => {
                arrive(sandbox);
                Ok(sandbox.clone())
            }
        })
    }

    fn with<T>(
        &self,
        id: &SandboxId,
        act: impl FnOnce(&mut NodeSandbox) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        act(sandboxes.get_mut(id).ok_or_else(|| not_found(id))?)
    }

    fn keep(&self, build: BuildId) {
        self.builds.lock().expect("unpoisoned").insert(build);
    }
}

fn settle_paused(sandbox: &mut NodeSandbox, memory: bool) {
    sandbox.state = NodeSandboxState::Paused;
    sandbox.address = None;
    sandbox.paused = Some(Paused {
        at: Utc::now(),
        memory,
    });
}

fn settle_running(sandbox: &mut NodeSandbox) {
    sandbox.state = NodeSandboxState::Running;
    sandbox.address = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    sandbox.paused = None;
    sandbox.execution_id = uuid::Uuid::new_v4().to_string();
}

fn summary(sandbox: &NodeSandbox, with_metadata: bool) -> SandboxSummary {
    let config = sandbox.config.clone();
    SandboxSummary {
        sandbox_id: config.sandbox_id,
        template_id: config.template_id,
        build_id: config.build_id,
        team_id: config.team_id,
        alias: config.alias,
        metadata: if with_metadata {
            config.metadata
        } else {
            BTreeMap::new()
        },
        volume_mounts: config.volume_mounts,
        state: sandbox.state,
        started_at: sandbox.started_at,
        end_at: sandbox.end_at,
        vcpus: sandbox.vcpus,
        memory_mib: sandbox.memory_mib,
        disk_mib: sandbox.disk_mib,
        envd_version: sandbox.envd_version.clone(),
        paused: sandbox.paused,
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
        if let Some(fault) = self.fault(Call::Create) {
            if fault.done_anyway {
                self.insert(config, end_at);
            }
            return Err(fault.error);
        }
        Ok(self.insert(config, end_at))
    }

    async fn update(
        &self,
        id: &SandboxId,
        update: SandboxUpdate,
    ) -> Result<NodeSandbox, NodeError> {
        let fault = self.fault(Call::Update);
        self.with(id, |sandbox| {
            if sandbox.state != NodeSandboxState::Running {
                return Err(NodeError::InTransition(format!(
                    "sandbox {id} does not run"
                )));
            }
            if let Some(fault) = fault {
                return Err(fault.error);
            }
            if let Some(end_at) = update.end_at
                && (!update.only_extend || end_at > sandbox.end_at)
            {
                sandbox.end_at = end_at;
            }
            if let Some(network) = update.network {
                sandbox.config.network = Some(network);
            }
            Ok(sandbox.clone())
        })
    }

    async fn get(&self, id: &SandboxId) -> Result<Option<NodeSandbox>, NodeError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        Ok(sandboxes.get(id).cloned())
    }

    async fn list(&self, query: SandboxQuery<'_>) -> Result<Vec<SandboxSummary>, NodeError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let matching = sandboxes.values().filter(|sandbox| {
            let config = &sandbox.config;
            query.team.is_none_or(|team| config.team_id == team)
                && query
                    .template
                    .is_none_or(|template| config.template_id == *template)
                && !(query.skip_paused && sandbox.state == NodeSandboxState::Paused)
        });
        let listed: Vec<SandboxSummary> = matching
            .map(|sandbox| summary(sandbox, query.with_metadata))
            .collect();
        self.listed.fetch_add(listed.len(), Ordering::SeqCst);
        Ok(listed)
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), NodeError> {
        if let Some(fault) = self.fault(Call::Delete) {
            if fault.done_anyway {
                self.sandboxes.lock().expect("unpoisoned").remove(id);
            }
            return Err(fault.error);
        }
        let removed = self.sandboxes.lock().expect("unpoisoned").remove(id);
        removed.map(drop).ok_or_else(|| not_found(id))
    }

    async fn pause(&self, id: &SandboxId, _: BuildId, memory: bool) -> Result<(), NodeError> {
        self.pauses.fetch_add(1, Ordering::SeqCst);
        let way = (NodeSandboxState::Running, NodeSandboxState::Pausing);
        self.transit(Call::Pause, id, way, |sandbox| {
            settle_paused(sandbox, memory);
        })
        .await
        .map(drop)
    }

    async fn resume(
        &self,
        id: &SandboxId,
        end_at: DateTime<Utc>,
        _discard_memory: bool,
    ) -> Result<NodeSandbox, NodeError> {
        self.resumes.fetch_add(1, Ordering::SeqCst);
        let way = (NodeSandboxState::Paused, NodeSandboxState::Resuming);
        self.transit(Call::Resume, id, way, |sandbox| {
            settle_running(sandbox);
            sandbox.end_at = end_at;
        })
        .await
    }

    async fn checkpoint(&self, id: &SandboxId, build: BuildId) -> Result<(), NodeError> {
        let way = (NodeSandboxState::Running, NodeSandboxState::Snapshotting);
        self.transit(Call::Checkpoint, id, way, |sandbox| {
            sandbox.state = NodeSandboxState::Running;
            self.keep(build);
        })
        .await
        .map(drop)
    }

    async fn rollback(&self, id: &SandboxId, build: BuildId) -> Result<NodeSandbox, NodeError> {
        if !self.builds.lock().expect("unpoisoned").contains(&build) {
            return Err(NodeError::NotFound(format!("no build {build}")));
        }
        let way = (NodeSandboxState::Running, NodeSandboxState::Resuming);
        self.transit(Call::Rollback, id, way, settle_running).await
    }

    async fn build_list(&self) -> Result<Vec<NodeBuild>, NodeError> {
        let builds = self.builds.lock().expect("unpoisoned");
        let build = |id: &BuildId| NodeBuild {
            id: *id,
            kind: "snapshot".to_owned(),
            created_at: Utc::now(),
            own_bytes: 1,
            parents: Vec::new(),
        };
        Ok(builds.iter().map(build).collect())
    }

    async fn build_delete(&self, build: BuildId) -> Result<(), NodeError> {
        if let Some(fault) = self.fault(Call::DeleteBuild) {
            if fault.done_anyway {
                self.builds.lock().expect("unpoisoned").remove(&build);
            }
            return Err(fault.error);
        }
        if self.builds.lock().expect("unpoisoned").remove(&build) {
            Ok(())
        } else {
            Err(NodeError::NotFound(format!("no build {build}")))
        }
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
        _token: Option<&SecretString>,
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
