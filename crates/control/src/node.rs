//! The port to a node: the machine that runs sandboxes, in the application's
//! terms.

use crate::events::NodeEvents;
use crate::network::NetworkSettings;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
pub use hearth_volumes::VolumeMount;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What a sandbox is made of and belongs to. The node keeps it for as long as
/// the sandbox lives and gives it back with the sandbox.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    pub sandbox_id: SandboxId,
    pub template_id: TemplateId,
    pub build_id: BuildId,
    pub team_id: TeamId,
    pub alias: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub env_vars: BTreeMap<String, String>,
    /// What the agent asks for; without one it serves whoever reaches it.
    pub envd_access_token: Option<SecretString>,
    /// Present where the sandbox's URLs are not public.
    pub traffic_access_token: Option<SecretString>,
    pub allow_internet_access: Option<bool>,
    pub network: Option<NetworkSettings>,
    pub lifecycle: Lifecycle,
    pub volume_mounts: Vec<VolumeMount>,
}

/// What happens when the time is over, and when traffic meets a paused sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    pub on_timeout: OnTimeout,
    #[serde(default)]
    pub auto_resume: bool,
    /// Whether a pause on timeout keeps the memory.
    #[serde(default = "yes")]
    pub auto_pause_memory: bool,
    /// How long the sandbox was to live when it was made: traffic that resumes it
    /// gives it that long again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_timeout_seconds: Option<i64>,
}

fn yes() -> bool {
    true
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            on_timeout: OnTimeout::Kill,
            auto_resume: false,
            auto_pause_memory: true,
            initial_timeout_seconds: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    Kill,
    Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeSandboxState {
    Starting,
    Running,
    Pausing,
    Snapshotting,
    Stopping,
    Paused,
    Resuming,
}

/// What is kept of a paused sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paused {
    pub at: DateTime<Utc>,
    /// Whether a resume restores memory; otherwise it boots from the disk.
    pub memory: bool,
}

/// A sandbox as its node sees it.
#[derive(Debug, Clone)]
pub struct NodeSandbox {
    pub config: SandboxConfig,
    pub state: NodeSandboxState,
    pub started_at: DateTime<Utc>,
    pub end_at: DateTime<Utc>,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub envd_version: String,
    pub execution_id: String,
    /// Where the guest's ports answer on the host; absent while it starts and
    /// while it is paused.
    pub address: Option<IpAddr>,
    /// Present while it is paused.
    pub paused: Option<Paused>,
    /// The change that led to this.
    pub revision: Revision,
}

impl NodeSandbox {
    /// What lists and watches tell of it.
    #[must_use]
    pub fn summary(&self) -> SandboxSummary {
        let config = &self.config;
        SandboxSummary {
            sandbox_id: config.sandbox_id.clone(),
            template_id: config.template_id.clone(),
            build_id: config.build_id,
            team_id: config.team_id,
            alias: config.alias.clone(),
            metadata: config.metadata.clone(),
            volume_mounts: config.volume_mounts.clone(),
            state: self.state,
            started_at: self.started_at,
            end_at: self.end_at,
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            disk_mib: self.disk_mib,
            envd_version: self.envd_version.clone(),
            paused: self.paused,
            revision: self.revision,
        }
    }
}

/// A change on a node. Of two of the same instance the one with the higher sequence
/// is the later; those of different instances cannot be compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revision {
    /// One run of the node; 0 where it does not say.
    pub instance: u64,
    /// Number of the change, from 1.
    pub sequence: u64,
}

/// Some of what a watch tells, in the order of the changes.
#[derive(Debug, Clone, Default)]
pub struct SandboxBatch {
    /// What was known counts no more: what follows is all there is.
    pub reset: bool,
    /// New and changed sandboxes, with their metadata.
    pub changed: Vec<SandboxSummary>,
    pub removed: Vec<SandboxRemoval>,
    /// With this, every change up to here has been told.
    pub current: Revision,
    /// Nothing was left to tell. After a reset, what was told may be used from here on.
    pub complete: bool,
}

/// A sandbox that is not on its node any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRemoval {
    pub sandbox_id: SandboxId,
    /// Number of the change by which it went.
    pub sequence: u64,
}

/// What a watch tells; it ends with an error, or when the node goes down.
pub type SandboxWatch = BoxStream<'static, Result<SandboxBatch, NodeError>>;

/// Which sandboxes a list holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct SandboxQuery<'a> {
    /// Only those of this team.
    pub team: Option<TeamId>,
    /// Only those made from this template.
    pub template: Option<&'a TemplateId>,
    /// Not those that are paused.
    pub skip_paused: bool,
    /// With their metadata, the one part of a summary that may be large.
    pub with_metadata: bool,
}

/// What lists tell of a sandbox: no variables, no tokens, no network settings.
#[derive(Debug, Clone)]
pub struct SandboxSummary {
    pub sandbox_id: SandboxId,
    pub template_id: TemplateId,
    pub build_id: BuildId,
    pub team_id: TeamId,
    pub alias: Option<String>,
    /// Empty unless it was asked for.
    pub metadata: BTreeMap<String, String>,
    pub volume_mounts: Vec<VolumeMount>,
    pub state: NodeSandboxState,
    pub started_at: DateTime<Utc>,
    pub end_at: DateTime<Utc>,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub envd_version: String,
    /// Present while it is paused.
    pub paused: Option<Paused>,
    /// The change that led to this.
    pub revision: Revision,
}

/// A build on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBuild {
    pub id: BuildId,
    /// `template`, `snapshot` or `pause`.
    pub kind: String,
    pub created_at: DateTime<Utc>,
    /// Bytes that this build alone accounts for.
    pub own_bytes: u64,
    /// Builds whose parts it needs.
    pub parents: Vec<BuildId>,
}

/// Changes to a running sandbox; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct SandboxUpdate {
    pub end_at: Option<DateTime<Utc>>,
    /// An `end_at` before the present one is ignored.
    pub only_extend: bool,
    pub network: Option<NetworkSettings>,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    pub node_id: String,
    pub version: String,
    pub accelerator: String,
    pub engine: String,
    pub sandboxes_running: u32,
    pub sandboxes_max: u32,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    /// Those that are starting or resuming.
    pub sandboxes_starting: u32,
    /// Since the node's process began.
    pub create_successes: u64,
    pub create_failures: u64,
    pub usage: HostUsage,
    pub machine: Machine,
}

/// How a node's machine is at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostUsage {
    /// Of all processors together, 0 to 100.
    pub cpu_percent: u32,
    pub cpu_count: u32,
    /// Pages of the default size.
    pub huge_pages_total: u64,
    pub huge_pages_used: u64,
    pub huge_pages_reserved: u64,
    pub huge_page_size_bytes: u64,
    /// Those that hold sandboxes.
    pub disks: Vec<Disk>,
}

/// A file system of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub mount_point: String,
    pub device: String,
    pub filesystem_type: String,
    pub used_bytes: u64,
    pub total_bytes: u64,
}

/// A node's processor, as its kernel names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu_family: String,
    pub cpu_model: String,
    pub cpu_model_name: String,
    pub cpu_architecture: String,
}

/// Why a node did not do what it was asked. Texts are fit for the caller but for
/// those of `Unreachable` and `Internal`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NodeError {
    #[error("{0}")]
    AlreadyExists(String),
    #[error("{0}")]
    NotFound(String),
    /// The sandbox is in a state in which this cannot be done.
    #[error("{0}")]
    InTransition(String),
    #[error("{0}")]
    Invalid(String),
    /// No slot, memory or disk is left.
    #[error("{0}")]
    Exhausted(String),
    #[error("{0}")]
    Unimplemented(String),
    /// What was kept of the sandbox is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The request may or may not have reached the node.
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    /// The node may still carry the request out.
    #[error("the node did not answer in time")]
    Deadline,
    #[error("the node failed: {0}")]
    Internal(String),
}

impl NodeError {
    /// Whether the request may have been carried out in spite of the error.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Deadline)
    }
}

#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// The id of a sandbox of this build that is made already: a create with this id
    /// is quicker than with any other. `None` where there is none.
    async fn reserve(&self, _build: BuildId) -> Result<Option<SandboxId>, NodeError> {
        Ok(None)
    }
    /// Starts a sandbox; answers when commands can run in it.
    async fn create(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
    ) -> Result<NodeSandbox, NodeError>;
    async fn update(&self, id: &SandboxId, update: SandboxUpdate)
    -> Result<NodeSandbox, NodeError>;
    /// The sandbox of this id, in any state; `None` where the node has none.
    async fn get(&self, id: &SandboxId) -> Result<Option<NodeSandbox>, NodeError>;
    /// The sandboxes of the node that match, in any state, paused ones among them.
    /// For a sandbox whose id is known [`Self::get`] costs less, however many others
    /// there are.
    async fn list(&self, query: SandboxQuery<'_>) -> Result<Vec<SandboxSummary>, NodeError>;
    /// Tells of all sandboxes of the node, then of every change. With `after`, where a
    /// former watch came to, only of what is new since, if the node still knows it.
    ///
    /// The stream says something every few seconds or ends: silence is an error of it.
    async fn watch(&self, _after: Option<Revision>) -> Result<SandboxWatch, NodeError> {
        let why = "the node cannot be watched".to_owned();
        Err(NodeError::Unimplemented(why))
    }
    /// The same as [`Self::create`] for a sandbox that goes on from another one's state,
    /// which its event tells.
    async fn create_fork(
        &self,
        config: SandboxConfig,
        end_at: DateTime<Utc>,
        _of: &SandboxId,
    ) -> Result<NodeSandbox, NodeError> {
        self.create(config, end_at).await
    }
    /// The same as [`Self::checkpoint`] for forks, which its event tells.
    async fn checkpoint_for_forks(
        &self,
        id: &SandboxId,
        build: BuildId,
    ) -> Result<SandboxSummary, NodeError> {
        self.checkpoint(id, build).await
    }
    /// Forgets events that are kept now, and answers the oldest of the others, waiting for
    /// one at most so long.
    async fn events(
        &self,
        _acknowledged: &[u64],
        _wait: Duration,
    ) -> Result<NodeEvents, NodeError> {
        let why = "the node tells of no events".to_owned();
        Err(NodeError::Unimplemented(why))
    }
    /// Ends a sandbox in any state, and what was kept of it; answers when all that
    /// it held is free, with the change by which the sandbox went.
    async fn delete(&self, id: &SandboxId) -> Result<Revision, NodeError>;
    /// Stops a sandbox and keeps its state as `build`. Answers how it is then.
    async fn pause(
        &self,
        id: &SandboxId,
        build: BuildId,
        memory: bool,
    ) -> Result<SandboxSummary, NodeError>;
    /// Continues a paused sandbox; answers when commands can run in it. With
    /// `discard_memory` it boots from its disk although memory was kept.
    async fn resume(
        &self,
        id: &SandboxId,
        end_at: DateTime<Utc>,
        discard_memory: bool,
    ) -> Result<NodeSandbox, NodeError>;
    /// Keeps a running sandbox's state as `build`; the sandbox goes on. Answers how it
    /// is then.
    async fn checkpoint(&self, id: &SandboxId, build: BuildId)
    -> Result<SandboxSummary, NodeError>;
    /// Puts a running sandbox back to a build that was kept of it.
    async fn rollback(&self, id: &SandboxId, build: BuildId) -> Result<NodeSandbox, NodeError>;
    async fn build_list(&self) -> Result<Vec<NodeBuild>, NodeError>;
    /// Frees a build; what others need of it stays.
    async fn build_delete(&self, build: BuildId) -> Result<(), NodeError>;
    async fn info(&self) -> Result<NodeInfo, NodeError>;
    /// The part that builds templates, where the node has one.
    fn templates(&self) -> Option<&dyn crate::TemplateNode> {
        None
    }
}
