//! The daemon of a machine that is a node and nothing else: no API, no store, no edge.
//!
//! ```text
//!  control plane ══ mutual TLS ══▶ node.listen ─▶ node ◀── node.sock ── commands here
//!        ▲                                          │
//!        └─────── announce, heartbeats, renewals ───┘
//! ```

use super::{
    Lock, STOP_LIMIT, Started, descriptors, emulation, make_state_dir, memory, node, prepare,
    start_node, telemetry, volumes,
};
use crate::settings::Settings;
use anyhow::Context as _;
use hearth_cluster::Membership;
use hearth_control::{Node as _, NodeRegistration, NodeReport, SandboxQuery};
use hearth_membership::Node as Member;
use hearth_node::config::MutualConfig;
use hearth_node_client::NodeClient;
use hearth_telemetry::Collector;
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// A node's process.
pub struct NodeDaemon {
    started: Started,
    collector: Collector,
    tasks: TaskTracker,
    leave: CancellationToken,
    settings: Settings,
    _lock: Lock,
}

impl NodeDaemon {
    /// Starts the node. When this returns it serves the control plane, which may still have
    /// to be found.
    pub async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let lock = Lock::take(&settings.pid_file())?;
        memory::protect();
        let address = settings.node.listen.context(
            "set node.listen in the settings: the control plane reaches this node there, such as \
             \"0.0.0.0:5008\"",
        )?;
        let file = settings.membership_file();
        let membership = Membership::read(&file)?.context(
            "this machine has not joined a cluster: `hearth node token` on the control plane \
             prints a token for `hearth node join`",
        )?;
        let member = Arc::new(Member::new(membership, file)?);
        make_state_dir(settings)?;
        let registration = registration(settings)?;
        let share = descriptors::share(settings);
        let limits = hearth_telemetry::Limits::default();
        let told = hearth_telemetry::Store::open(settings.telemetry_dir(), limits)
            .context("open what sandboxes told")?;
        prepare::end_leftovers(settings)?;
        let events = hearth_telemetry::EventLog::start(told.clone());
        let mutual = MutualConfig {
            address,
            tls: member.credentials().server_config()?,
        };
        let volumes = volumes::open(settings)?;
        let started = start_node(settings, share, events, volumes, Some(mutual)).await?;
        let source = Arc::new(telemetry::NodeSource(Arc::clone(&started.node)));
        let collector = Collector::start(source, told);
        let (tasks, leave) = (TaskTracker::new(), CancellationToken::new());
        let own = Arc::new(NodeClient::unix(settings.node_socket()));
        let stop = leave.clone();
        tasks.spawn(async move {
            member
                .follow(&registration, || report(Arc::clone(&own)), stop)
                .await;
        });
        tasks.close();
        tracing::info!(%address, "the node listens");
        Ok(Self {
            started,
            collector,
            tasks,
            leave,
            settings: settings.clone(),
            _lock: lock,
        })
    }

    /// Tells the control plane, and lets go of the sandboxes, which run on. Returns how many.
    pub async fn stop(self) -> usize {
        self.leave.cancel();
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("tell the control plane of the end failed: no answer in time");
        }
        self.collector.stop().await;
        let left = self.started.stop().await;
        emulation::forget(&self.settings);
        tracing::info!(sandboxes = left, "stopped the daemon");
        left
    }
}

/// How this machine's node names itself.
fn registration(settings: &Settings) -> anyhow::Result<NodeRegistration> {
    let local = node::local(settings)?;
    Ok(NodeRegistration {
        id: local.id,
        instance: Uuid::new_v4(),
        address: settings.node.advertised(&local.name),
        name: local.name,
        labels: local.labels,
        version: local.version,
        revision: local.revision,
    })
}

/// How the node is, where it answers.
async fn report(node: Arc<NodeClient>) -> Option<String> {
    let running = SandboxQuery {
        skip_paused: true,
        ..SandboxQuery::default()
    };
    let told = async { Ok((node.info().await?, node.list(running).await?)) };
    let told: Result<_, hearth_control::NodeError> = told.await;
    match told {
        Ok((info, active)) => {
            let active: Vec<_> = active.into_iter().map(Arc::new).collect();
            Some(NodeReport::new(info, &active).write())
        }
        Err(error) => {
            tracing::warn!(%error, "read the node's metrics failed");
            None
        }
    }
}
