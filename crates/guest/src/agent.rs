//! The agent as a whole: its parts, and running them until told to stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroups::Cgroups;
use crate::files::watch::pollers::Pollers;
use crate::http::internal::FrozenParts;
use crate::http::metrics::Meter;
use crate::http::route::Routes;
use crate::process::launch::Launcher;
use crate::process::reaper::{Reaper, Scope};
use crate::settings::SettingsCell;
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
    life: Mutex<CancellationToken>,
}

impl Agent {
    /// Cancelled when the sandbox begins another life: it was restored, so that
    /// whoever was connected before is not any more.
    pub fn life(&self) -> CancellationToken {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.clone()
    }

    pub fn begin_life(&self) {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *life).cancel();
    }
}

/// A bound agent that does not serve yet.
#[derive(Debug)]
pub struct Server {
    agent: Arc<Agent>,
    reaper: Arc<Reaper>,
    listener: TcpListener,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    /// Listens. Connections wait until [`Self::run`].
    pub async fn bind(config: Config, stop: CancellationToken) -> Result<Self, Error> {
        let address = config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        let tasks = TaskTracker::new();
        let scope = if config.manage_system {
            Scope::Everything
        } else {
            Scope::Own
        };
        let reaper = Arc::new(Reaper::new(scope));
        let users = UserDatabase::new(&config.user_root);
        let launcher = Launcher::new(
            Arc::clone(&reaper),
            users.clone(),
            cgroups(&config),
            Arc::clone(&config.log),
            tasks.clone(),
            stop.clone(),
        );
        let agent = Agent {
            config,
            settings: SettingsCell::default(),
            users,
            launcher,
            meter: Meter::default(),
            pollers: Pollers::new(tasks.clone(), stop.clone()),
            frozen: FrozenParts::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            life: Mutex::default(),
        };
        Ok(Self {
            agent: Arc::new(agent),
            reaper,
            listener,
            tasks,
            stop,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the token is cancelled and all tasks have ended. Processes
    /// that were started stay.
    pub async fn run(self) -> Result<(), Error> {
        let Self {
            agent,
            reaper,
            listener,
            tasks,
            stop,
        } = self;
        let serving = tasks.spawn(crate::http::server::serve(
            listener,
            Routes::new(agent),
            tasks.clone(),
            stop.clone(),
        ));
        let reaped = reaper.run(stop.clone()).await.map_err(Error::Reap);
        stop.cancel();
        let _ = serving.await;
        tasks.close();
        tasks.wait().await;
        reaped
    }
}

/// Without groups programs still run, only unguarded.
fn cgroups(config: &Config) -> Option<Cgroups> {
    if !config.manage_system {
        return None;
    }
    Cgroups::create()
        .inspect_err(|error| tracing::error!(%error, "cannot make control groups"))
        .ok()
}
