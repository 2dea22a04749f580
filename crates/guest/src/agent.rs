//! The agent as a whole: its parts, and running them until told to stop.

use hearth_util::LockExt as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::files::Actor;
use crate::files::watch::pollers::Pollers;
use crate::handover::state::{FORMAT, State};
use crate::handover::{self, Handover, Successor};
use crate::http::internal::FrozenParts;
use crate::http::metrics::Meter;
use crate::http::route::Routes;
use crate::process::launch::Launcher;
use crate::process::reaper::{Reaper, Scope};
use crate::settings::{Settings, SettingsCell};
use crate::telemetry::Log;
use crate::users::UserDatabase;

/// How the agent runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Directory whose `etc/passwd` and `etc/group` name the users.
    pub user_root: PathBuf,
    /// Whether the machine is ours: clock, entropy, host name and marker files
    /// are set, and all children are waited for. Only in a guest.
    pub manage_system: bool,
    /// Where the agent and its processes write; the host collects it.
    pub log: Arc<Log>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot wait for children: {0}")]
    Reap(#[source] io::Error),
    #[error("cannot be replaced: {0}")]
    Replace(#[source] io::Error),
}

/// What all request handlers share.
#[derive(Debug)]
pub struct Agent {
    pub config: Config,
    pub settings: SettingsCell,
    pub users: UserDatabase,
    pub launcher: Launcher,
    pub meter: Meter,
    pub pollers: Pollers,
    /// Whether what was frozen for a snapshot still is.
    pub frozen: FrozenParts,
    /// Owns every task that outlives a request.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    pub handover: Handover,
    /// How often the agent was replaced since its first start.
    pub generation: u64,
    life: Mutex<CancellationToken>,
}

impl Agent {
    /// Cancelled when the sandbox begins another life: it was restored, so that
    /// whoever was connected before is not any more.
    pub fn life(&self) -> CancellationToken {
        let life = self.life.lock_unpoisoned();
        life.clone()
    }

    pub fn begin_life(&self) {
        let mut life = self.life.lock_unpoisoned();
        std::mem::take(&mut *life).cancel();
    }
}

/// A bound agent that does not serve yet.
#[derive(Debug)]
pub struct Server {
    agent: Arc<Agent>,
    listener: TcpListener,
}

/// Why serving ended.
#[derive(Debug)]
pub enum Outcome {
    Stopped,
    /// Another version of the agent is to be executed, outside of the runtime.
    Replaced(Successor),
}

impl Server {
    /// Listens. Connections wait until [`Self::run`].
    pub async fn bind(config: Config, stop: CancellationToken) -> Result<Self, Error> {
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        Ok(Self {
            agent: Arc::new(Agent::new(config, stop, Settings::default(), 0)),
            listener,
        })
    }

    /// Goes on with what the agent's predecessor left: its listening socket and its
    /// state. What of the state cannot be taken over is logged and left out.
    pub fn take_over(
        config: Config,
        stop: CancellationToken,
        listener: OwnedFd,
        state: State,
    ) -> Result<Self, Error> {
        let address = config.listen;
        let listen = |source| Error::Listen { address, source };
        let listener = std::net::TcpListener::from(listener);
        let listener = TcpListener::from_std(listener).map_err(listen)?;
        config.log.restore(state.log);
        let generation = state.generation + 1;
        let agent = Agent::new(config, stop, state.settings.into(), generation);
        let parts = [
            (&agent.frozen.programs, state.programs_frozen),
            (&agent.frozen.disk, state.disk_frozen),
        ];
        for (part, frozen) in parts {
            part.store(frozen, Ordering::Release);
        }
        for process in state.processes {
            if let Err(error) = agent.launcher.adopt(process) {
                tracing::error!(%error, "adopt process failed");
            }
        }
        let settings = agent.settings.snapshot();
        for poller in state.pollers {
            let Ok(user) = agent.users.by_name(&poller.user) else {
                tracing::error!(
                    user = poller.user,
                    "adopt watcher failed: its user does not exist"
                );
                continue;
            };
            let actor = Actor::new(user, &settings, &agent.users);
            if let Err(error) = agent.pollers.adopt(poller, actor) {
                tracing::error!(%error, "adopt watcher failed");
            }
        }
        Ok(Self {
            agent: Arc::new(agent),
            listener,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the token is cancelled, or another version takes over, and all
    /// tasks have ended. Processes that were started stay.
    pub async fn run(self) -> Result<Outcome, Error> {
        let Self { agent, listener } = self;
        let (tasks, stop) = (agent.tasks.clone(), agent.stop.clone());
        let handover = agent.handover.begun().clone();
        let connections = TaskTracker::new();
        let mut serving = tasks.spawn(crate::http::server::serve(
            listener,
            Routes::new(Arc::clone(&agent)),
            connections.clone(),
            handover.clone(),
            stop.clone(),
        ));
        let reaped = tokio::select! {
            reaped = agent.launcher.reaper.run(stop.clone()) => reaped.map_err(Error::Reap),
            listener = finish_requests(&mut serving, &connections, &handover) => {
                // From here on no child is waited for.
                stop.cancel();
                drain(&tasks, &connections).await;
                return Ok(match listener.and_then(|listener| succeed(&agent, listener)) {
                    Ok(successor) => Outcome::Replaced(successor),
                    Err(error) => return Err(Error::Replace(error)),
                });
            }
        };
        stop.cancel();
        let _ = serving.await;
        drain(&tasks, &connections).await;
        reaped.map(|()| Outcome::Stopped)
    }
}

async fn drain(tasks: &TaskTracker, connections: &TaskTracker) {
    for tracker in [tasks, connections] {
        tracker.close();
        tracker.wait().await;
    }
}

/// Completes some time after a handover has begun, when no request runs any more
/// or the grace is over.
async fn finish_requests(
    serving: &mut tokio::task::JoinHandle<TcpListener>,
    connections: &TaskTracker,
    handover: &CancellationToken,
) -> io::Result<TcpListener> {
    handover.cancelled().await;
    let listener = serving.await.map_err(io::Error::other)?;
    connections.close();
    if tokio::time::timeout(handover::GRACE, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!("requests were still running when the agent was replaced");
    }
    Ok(listener)
}

/// Gathers what the next version needs. All tasks have ended.
fn succeed(agent: &Agent, listener: TcpListener) -> io::Result<Successor> {
    let processes = agent.launcher.table.all();
    let processes = processes
        .iter()
        .filter_map(|process| {
            let state = process.state_for_successor();
            state
                .inspect_err(|error| tracing::error!(%error, "hand process over failed"))
                .ok()
        })
        .collect();
    let state = State {
        format: FORMAT,
        generation: agent.generation,
        settings: agent.settings.snapshot().state(),
        programs_frozen: agent.frozen.programs.load(Ordering::Acquire),
        disk_frozen: agent.frozen.disk.load(Ordering::Acquire),
        processes,
        pollers: agent.pollers.state_for_successor(),
        log: agent.config.log.state(),
    };
    let image = agent.handover.take_image();
    Ok(Successor {
        image: image.ok_or_else(|| io::Error::other("there is no new program"))?,
        listener: listener.into_std()?.into(),
        state: state.write().map_err(io::Error::other)?,
    })
}

impl Agent {
    /// An agent that nothing serves yet. Must run inside the runtime.
    pub fn new(
        config: Config,
        stop: CancellationToken,
        settings: Settings,
        generation: u64,
    ) -> Self {
        let tasks = TaskTracker::new();
        // An agent beside another PID 1 gets no orphans.
        let scope = if rustix::process::getpid().is_init() {
            Scope::Everything
        } else {
            Scope::Own
        };
        let users = UserDatabase::new(&config.user_root);
        let launcher = Launcher::new(
            Arc::new(Reaper::new(scope)),
            users.clone(),
            cgroups(&config),
            Arc::clone(&config.log),
            tasks.clone(),
            stop.clone(),
        );
        Self {
            config,
            settings: settings.into(),
            users,
            launcher,
            meter: Meter::default(),
            pollers: Pollers::new(tasks.clone(), stop.clone()),
            frozen: FrozenParts::default(),
            tasks,
            stop,
            handover: Handover::default(),
            generation,
            life: Mutex::default(),
        }
    }
}

/// Without groups programs still run, only unguarded.
fn cgroups(config: &Config) -> Option<Cgroups> {
    if !config.manage_system {
        return None;
    }
    Cgroups::create()
        .inspect_err(|error| tracing::error!(%error, "create control groups failed"))
        .ok()
}
