//! A node without machines: a map, a clock, and failures on demand. It keeps to
//! what the node's protocol says of each call.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_control::{
    Agent, AgentError, AgentMetrics, Disk, HostUsage, Machine, Node, NodeBuild, NodeError,
    NodeEvent, NodeEvents, NodeInfo, NodeSandbox, NodeSandboxState, Paused, Revision, SandboxBatch,
    SandboxConfig, SandboxQuery, SandboxRemoval, SandboxSummary, SandboxUpdate, SandboxWatch,
};
use hearth_ids::{BuildId, SandboxId};
use secrecy::SecretString;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Semaphore, mpsc, watch};

/// One of the node's calls that may fail: those that change something, and lists.
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
    List,
}

/// Questions to a node: for one sandbox, for lists, how many sandboxes those lists
/// told of, and how long the answers were, about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub gets: usize,
    pub lists: usize,
    pub listed: usize,
    pub bytes: usize,
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
    /// Bytes of all that it answered to those questions, about.
    pub bytes: AtomicUsize,
    /// It tells nobody of changes.
    pub unwatchable: AtomicBool,
    sequence: AtomicU64,
    watchers: Mutex<Vec<Watcher>>,
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
    /// Events that were not acknowledged, by their numbers.
    pub events: watch::Sender<BTreeMap<u64, NodeEvent>>,
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
            bytes: AtomicUsize::new(0),
            unwatchable: AtomicBool::new(false),
            sequence: AtomicU64::new(0),
            watchers: Mutex::default(),
            failure: Mutex::default(),
            creates_anyway: Mutex::new(false),
            faults: Mutex::default(),
            gate: Semaphore::new(1_000_000),
            transitions: Semaphore::new(1_000_000),
            events: watch::Sender::default(),
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
        let sandbox = sandboxes.get_mut(&id).expect("a sandbox");
        change(sandbox);
        self.tell(sandbox);
    }

    fn next(&self) -> Revision {
        Revision {
            instance: INSTANCE,
            sequence: self.sequence.fetch_add(1, Ordering::SeqCst) + 1,
        }
    }

    /// Tells watchers of a change; with the lock on the sandboxes held, so that they
    /// hear of all in their order.
    fn tell(&self, sandbox: &mut NodeSandbox) {
        sandbox.revision = self.next();
        self.send(&SandboxBatch {
            changed: vec![sandbox.summary()],
            current: sandbox.revision,
            complete: true,
            ..SandboxBatch::default()
        });
    }

    fn send(&self, batch: &SandboxBatch) {
        let mut watchers = self.watchers.lock().expect("unpoisoned");
        watchers.retain(|watcher| watcher.send(batch.clone()));
    }

    fn remove(&self, id: &SandboxId) -> Option<Revision> {
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        sandboxes.remove(id)?;
        let current = self.next();
        self.send(&SandboxBatch {
            removed: vec![SandboxRemoval {
                sandbox_id: id.clone(),
                sequence: current.sequence,
            }],
            current,
            complete: true,
            ..SandboxBatch::default()
        });
        Some(current)
    }

    /// Ends every watch, as a node does that goes down; returns when those who watched
    /// know.
    pub async fn end_watches(&self) {
        let watchers = std::mem::take(&mut *self.watchers.lock().expect("unpoisoned"));
        for watcher in watchers {
            let mut pending = watcher.pending.clone();
            drop(watcher);
            while pending.changed().await.is_ok() {}
        }
    }

    /// Waits until somebody watches.
    pub async fn watched(&self) {
        while self.watchers.lock().expect("unpoisoned").is_empty() {
            tokio::task::yield_now().await;
        }
        self.caught_up().await;
    }

    /// Waits until those who watch have taken in all that they were told.
    pub async fn caught_up(&self) {
        let pending: Vec<_> = {
            let watchers = self.watchers.lock().expect("unpoisoned");
            let there = watchers
                .iter()
                .filter(|watcher| !watcher.sender.is_closed());
            there.map(|watcher| watcher.pending.clone()).collect()
        };
        for mut pending in pending {
            // One that has ended waits for nothing.
            let _ = pending.wait_for(|pending| *pending == 0).await;
        }
    }

    /// Sandboxes of somebody, made without the API.
    pub fn add(&self, sandbox: NodeSandbox) {
        let id = sandbox.config.sandbox_id.clone();
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        sandboxes.insert(id.clone(), sandbox);
        self.tell(sandboxes.get_mut(&id).expect("is there"));
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Asked {
        let take = |count: &AtomicUsize| count.swap(0, Ordering::SeqCst);
        Asked {
            gets: take(&self.gets),
            lists: take(&self.lists),
            listed: take(&self.listed),
            bytes: take(&self.bytes),
        }
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
        let mut sandbox = NodeSandbox {
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
            revision: Revision::default(),
        };
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        self.tell(&mut sandbox);
        sandboxes.insert(sandbox.config.sandbox_id.clone(), sandbox.clone());
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
                Ok(())
            }
        })
    }

    /// Does something with a sandbox; answers how it is then.
    fn with(
        &self,
        id: &SandboxId,
        act: impl FnOnce(&mut NodeSandbox) -> Result<(), NodeError>,
    ) -> Result<NodeSandbox, NodeError> {
        let mut sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let sandbox = sandboxes.get_mut(id).ok_or_else(|| not_found(id))?;
        let before = format!("{:?}", sandbox.summary());
        let done = act(sandbox);
        if format!("{:?}", sandbox.summary()) != before {
            self.tell(sandbox);
        }
        done.map(|()| sandbox.clone())
    }

    fn keep(&self, build: BuildId) {
        self.builds.lock().expect("unpoisoned").insert(build);
    }
}

/// Of one who watches.
struct Watcher {
    sender: mpsc::UnboundedSender<SandboxBatch>,
    /// How much it has not taken in yet.
    told: watch::Sender<usize>,
    pending: watch::Receiver<usize>,
}

impl Watcher {
    fn send(&self, batch: SandboxBatch) -> bool {
        self.told.send_modify(|pending| *pending += 1);
        self.sender.send(batch).is_ok()
    }
}

/// The other end: whoever goes away waits for nothing any more.
struct Reader {
    receiver: mpsc::UnboundedReceiver<SandboxBatch>,
    told: watch::Sender<usize>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.receiver.close();
        self.told.send_replace(0);
    }
}

/// Tells watches of this node from those of others.
const INSTANCE: u64 = 7;

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
    let mut summary = sandbox.summary();
    if !with_metadata {
        summary.metadata = BTreeMap::new();
    }
    summary
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
            Ok(())
        })
    }

    async fn events(
        &self,
        acknowledged: &[u64],
        _wait: std::time::Duration,
    ) -> Result<NodeEvents, NodeError> {
        self.events.send_modify(|events| {
            events.retain(|number, _| !acknowledged.contains(number));
        });
        let mut waiting = self.events.subscribe();
        let events = waiting.wait_for(|events| !events.is_empty()).await;
        let events = events.expect("the node is there").clone();
        Ok(NodeEvents {
            numbers: events.keys().copied().collect(),
            events: events.into_values().collect(),
        })
    }

    async fn get(&self, id: &SandboxId) -> Result<Option<NodeSandbox>, NodeError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let found = sandboxes.get(id).cloned();
        let bytes = found.as_ref().map_or(0, |found| format!("{found:?}").len());
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        Ok(found)
    }

    async fn list(&self, query: SandboxQuery<'_>) -> Result<Vec<SandboxSummary>, NodeError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        if let Some(fault) = self.fault(Call::List) {
            return Err(fault.error);
        }
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
        let bytes = format!("{listed:?}").len();
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        Ok(listed)
    }

    async fn watch(&self, _after: Option<Revision>) -> Result<SandboxWatch, NodeError> {
        if self.unwatchable.load(Ordering::SeqCst) {
            return Err(NodeError::Unreachable("not to be watched".to_owned()));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let (told, pending) = watch::channel(0);
        let watcher = Watcher {
            sender,
            told: told.clone(),
            pending,
        };
        // All there is, in two parts; always from the beginning.
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let mut all: Vec<SandboxSummary> = sandboxes.values().map(NodeSandbox::summary).collect();
        all.sort_by_key(|summary| summary.revision.sequence);
        let rest = all.split_off(all.len() / 2);
        let current = Revision {
            instance: INSTANCE,
            sequence: all.last().map_or(0, |last| last.revision.sequence),
        };
        watcher.send(SandboxBatch {
            reset: true,
            changed: all,
            current,
            ..SandboxBatch::default()
        });
        let sequence = self.sequence.load(Ordering::SeqCst);
        watcher.send(SandboxBatch {
            changed: rest,
            current: Revision {
                sequence,
                ..current
            },
            complete: true,
            ..SandboxBatch::default()
        });
        self.watchers.lock().expect("unpoisoned").push(watcher);
        let reader = Reader { receiver, told };
        Ok(Box::pin(futures::stream::unfold(
            (reader, false),
            |(mut reader, in_hand)| async move {
                if in_hand {
                    reader.told.send_modify(|pending| *pending -= 1);
                }
                let batch = reader.receiver.recv().await?;
                Some((Ok(batch), (reader, true)))
            },
        )))
    }

    async fn delete(&self, id: &SandboxId) -> Result<Revision, NodeError> {
        if let Some(fault) = self.fault(Call::Delete) {
            if fault.done_anyway {
                self.remove(id);
            }
            return Err(fault.error);
        }
        self.remove(id).ok_or_else(|| not_found(id))
    }

    async fn pause(
        &self,
        id: &SandboxId,
        _: BuildId,
        memory: bool,
    ) -> Result<SandboxSummary, NodeError> {
        self.pauses.fetch_add(1, Ordering::SeqCst);
        let way = (NodeSandboxState::Running, NodeSandboxState::Pausing);
        self.transit(Call::Pause, id, way, |sandbox| {
            settle_paused(sandbox, memory);
        })
        .await
        .map(|sandbox| sandbox.summary())
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

    async fn checkpoint(
        &self,
        id: &SandboxId,
        build: BuildId,
    ) -> Result<SandboxSummary, NodeError> {
        let way = (NodeSandboxState::Running, NodeSandboxState::Snapshotting);
        self.transit(Call::Checkpoint, id, way, |sandbox| {
            sandbox.state = NodeSandboxState::Running;
            self.keep(build);
        })
        .await
        .map(|sandbox| sandbox.summary())
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
        let sandboxes = self.sandboxes.lock().expect("unpoisoned");
        let up = sandboxes
            .values()
            .filter(|sandbox| sandbox.paused.is_none());
        let creates = self.creates.load(Ordering::SeqCst);
        Ok(NodeInfo {
            node_id: "fake".to_owned(),
            version: "1.2.3".to_owned(),
            accelerator: "kvm".to_owned(),
            engine: "fake 1".to_owned(),
            sandboxes_running: u32::try_from(up.count()).expect("fits"),
            sandboxes_max: 10,
            memory_total_bytes: 8 << 30,
            memory_available_bytes: 6 << 30,
            create_successes: u64::try_from(creates).expect("fits"),
            usage: HostUsage {
                cpu_percent: 7,
                cpu_count: 4,
                disks: vec![Disk {
                    mount_point: "/".to_owned(),
                    device: "/dev/sda1".to_owned(),
                    filesystem_type: "ext4".to_owned(),
                    used_bytes: 1,
                    total_bytes: 2,
                }],
                ..HostUsage::default()
            },
            machine: Machine {
                cpu_family: "6".to_owned(),
                cpu_model: "85".to_owned(),
                cpu_model_name: "A CPU".to_owned(),
                cpu_architecture: "x86_64".to_owned(),
            },
            ..NodeInfo::default()
        })
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
