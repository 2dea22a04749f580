//! The application layer: what Hearth does when somebody asks for a sandbox, a
//! template or a key, free of HTTP, SQL and gRPC.
//!
//! ```text
//!  api ──▶ Control ──▶ Store   what should be: teams, keys, templates
//!              ├─────▶ Node    what is: the sandboxes that run
//!              └─────▶ Agent   what a guest says of itself
//! ```
//!
//! One file per resource. The node is the truth about sandboxes: [`fleet`] holds a copy
//! of what it tells, and nothing here remembers more. Work that must not stop half-way when a caller goes
//! away runs as a task of [`Control`], which [`Control::shutdown`] waits for.

#![forbid(unsafe_code)]

mod access;
mod admin;
mod agent;
mod auth;
mod bootstrap;
mod config;
mod error;
pub mod events;
mod fleet;
mod housekeeping;
mod idempotency;
pub mod keys;
mod limits;
mod login;
mod metering;
mod network;
mod node;
mod nodes;
mod page;
mod quotas;
mod sandboxes;
mod secrets;
mod signed;
mod snapshots;
mod telemetry;
mod template_builds;
mod template_changes;
mod template_node;
mod template_tags;
mod templates;
mod tokens;
mod transitions;
mod uploads;
mod usage;
mod volume_tokens;
mod volumes;
mod webhooks;

pub use access::{Access, Action, Resource};
pub use admin::{Ended, MIN_TOKEN_LENGTH, OperatorToken, ShortToken, TeamChange, team_create};
pub use agent::{Agent, AgentError, AgentMetrics};
pub use auth::Caller;
pub use bootstrap::{Bootstrap, bootstrap};
pub use config::{Config, EventsConfig, Features, TeamConfig};
pub use error::{Error, Kind, Retry};
pub use events::{EventsRequest, NodeEvent, NodeEventKind, NodeEvents};
pub use hearth_store::{
    ApiKey, Attempt, AttemptStats, Build, BuildStatus, Delivery, DeliveryState, Event, KeyGrant,
    KeyMask, LimitsSetBy, NodeMode, NodeRegistration, NodeState, OwnerId, Scope, Span,
    TagAssignment, TagOrder, Team, TeamLimits, TemplateAlias, Usage, Webhook,
};
pub use idempotency::IdempotencyKey;
pub use login::LoginTokens;
pub use metering::{TeamMetric, TeamMetricKind, usage_of_sandboxes, usage_of_teams, usage_span};
pub use network::{
    EgressProxy, EgressProxyTls, HeaderTransform, NetworkRule, NetworkSettings, NetworkUpdate,
};
pub use node::{
    Disk, HostUsage, Lifecycle, Machine, Node, NodeBuild, NodeError, NodeInfo, NodeSandbox,
    NodeSandboxState, OnTimeout, Paused, Revision, SandboxBatch, SandboxConfig, SandboxQuery,
    SandboxRemoval, SandboxSummary, SandboxUpdate, SandboxWatch, VolumeMount,
};
pub use nodes::{
    CallingNode, Heard, LocalNode, Members, NodeDialer, NodeIssuer, NodeReport, NodeView,
};
pub use page::{Direction, Page, PageRequest};
pub use sandboxes::{
    ConnectRequest, Connected, ForkRequest, ListRequest, ListedSandbox, Metric, NewSandbox,
    PauseRequest, SandboxAccess, SandboxPage, SandboxView, StateFilter, VisibleState, Visitor,
    WakeRefusal,
};
pub use secrets::{NewSecret, SecretInfo, SecretKeepError, SecretKeeper, SecretKey, SecretUpdate};
pub use snapshots::{SnapshotFilter, SnapshotRequest, SnapshotView};
pub use telemetry::{
    LogDirection, LogEntry, LogLevel, LogQuery, MAX_LOG_ENTRIES, Telemetry, TelemetryError,
};
pub use template_builds::{
    BuildLogCursor, BuildLogQuery, NewTemplateBuild, RegisteredBuild, TemplateBuildSpec,
    TemplateBuildView, TemplateSource,
};
pub use template_changes::TemplateChange;
pub use template_node::{
    BuildLogEntry, BuildLogLevel, BuildSource, BuildStep, FilesPiece, NodeBuildSpec,
    NodeBuildState, NodeBuildView, RegistryCredentials, TemplateNode,
};
pub use template_tags::{TagGroups, TagGroupsQuery, TagHistory, TaggedBuild};
pub use templates::{TemplateAccess, TemplatePublication, TemplateView};
pub use tokens::Tokens;
pub use uploads::UploadTicket;
pub use usage::TeamAllocated;
pub use webhooks::{DeliveriesPage, DeliveriesRequest, WebhookSpec, WebhookUpdate};

pub use hearth_store::VolumeState;
pub use volumes::{MountRequest, Volume, VolumeAccess};

use fleet::Fleet;
use hearth_store::Store;
use limits::Reservations;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use transitions::Transitions;

/// The application layer of one process.
pub struct Control {
    store: Arc<dyn Store>,
    node: Arc<Fleet>,
    local_node: nodes::Local,
    remote_nodes: nodes::RemoteNodes,
    agent: Arc<dyn Agent>,
    telemetry: OnceLock<Arc<dyn Telemetry>>,
    secrets: OnceLock<Arc<dyn SecretKeeper>>,
    volumes: OnceLock<Arc<hearth_volumes::Volumes>>,
    volume_copies: Arc<Semaphore>,
    config: Config,
    tokens: Tokens,
    keys: auth::KeyCache,
    running_counts: tokio::sync::Mutex<admin::teams::RunningCounts>,
    reservations: Arc<Reservations>,
    transitions: Arc<Transitions>,
    tasks: TaskTracker,
    /// Tells the deliverer of webhooks that there is something to send.
    deliver: Arc<tokio::sync::Notify>,
    /// The template builds that a task of this process follows.
    followed: housekeeping::Followed,
    /// Ends the tasks that follow the node and its template builds, which the next process
    /// takes up, and the housekeeping.
    followers_stop: CancellationToken,
}

impl Control {
    #[must_use]
    pub fn new(
        config: Config,
        store: Arc<dyn Store>,
        node: Arc<dyn Node>,
        agent: Arc<dyn Agent>,
    ) -> Arc<Self> {
        Arc::new(Self {
            tokens: Tokens::new(config.token_seed.clone()),
            store,
            node: Arc::new(Fleet::new(node)),
            local_node: nodes::Local::default(),
            remote_nodes: nodes::RemoteNodes::default(),
            agent,
            telemetry: OnceLock::new(),
            secrets: OnceLock::new(),
            volumes: OnceLock::new(),
            volume_copies: Arc::new(Semaphore::new(volumes::COPIES)),
            config,
            keys: auth::KeyCache::default(),
            running_counts: tokio::sync::Mutex::default(),
            reservations: Arc::default(),
            transitions: Arc::default(),
            tasks: TaskTracker::new(),
            deliver: Arc::default(),
            followed: housekeeping::Followed::default(),
            followers_stop: CancellationToken::new(),
        })
    }

    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The base domain of the sandboxes' host names.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.config.domain
    }

    /// Follows the node's sandboxes from here on, until [`Self::shutdown`]: look-ups,
    /// lists and limits cost the node nothing while that works. Without it the node is
    /// asked each time.
    pub fn watch_node(&self) {
        let (node, stop) = (Arc::clone(&self.node), self.followers_stop.clone());
        self.tasks.spawn(async move { node.follow(stop).await });
    }

    /// Takes no more work that outlives its caller and waits for what runs, at
    /// most `deadline`. Answers whether all of it came to its end.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.followers_stop.cancel();
        self.volume_copies.close();
        if let Some(volumes) = self.volumes.get() {
            volumes.stop();
        }
        self.tasks.close();
        let ended = tokio::time::timeout(deadline, async {
            self.tasks.wait().await;
            self.leases_release().await;
        });
        ended.await.is_ok()
    }
}
