//! The node: starts sandboxes, finds them, ends them, and lets go of them when
//! the daemon goes down. It holds no sandbox itself; each has its driver.

use crate::{
    admission::{self, Facts, Limits},
    config::NodeConfig,
    error::{Error, chain},
    journal::{Found, Journals, Record},
    recovery,
    registry::{Count, Registry},
    sandbox::{Command, driver::Driver, resources::Resources},
    spec::{SandboxSpec, Status},
};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, SandboxId};
use hearth_machine::Engine;
use hearth_network::SlotPool;
use hearth_snapshot::{ArtefactStore, LocalStore};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::sandbox::EndAt;

/// What every driver uses.
pub(crate) struct Shared {
    pub config: NodeConfig,
    pub engine: Arc<dyn Engine>,
    pub slots: SlotPool,
    pub journals: Journals,
    pub registry: Registry,
    /// Cancelled when the daemon goes down: drivers let go of their VMs.
    pub detach: CancellationToken,
}

pub struct Node {
    shared: Arc<Shared>,
    builds: Arc<LocalStore>,
    drivers: TaskTracker,
}

/// Where the edge finds a sandbox's ports, and what it must ask of callers.
#[derive(Debug, Clone)]
pub struct Target {
    pub sandbox_id: SandboxId,
    pub address: Ipv4Addr,
    pub envd_access_token: String,
    pub traffic_access_token: Option<String>,
    pub network_json: String,
    /// Cancelled when the sandbox ends.
    pub closed: CancellationToken,
}

/// Facts about the node for its callers.
#[derive(Debug, Clone)]
pub struct Info {
    pub node_id: String,
    pub engine: String,
    pub accelerator: String,
    pub sandboxes: usize,
    pub sandboxes_max: usize,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    pub builds: Vec<BuildId>,
}

impl Node {
    /// Brings the node up: adopts every VM that a former daemon left running,
    /// cleans up after every one that died, then fills the slot pool.
    ///
    /// # Errors
    /// When the state directory cannot be read or the network cannot be set up.
    /// A single sandbox that cannot be adopted is ended, never an error.
    pub async fn start(
        config: NodeConfig,
        engine: Arc<dyn Engine>,
        builds: Arc<LocalStore>,
        network: hearth_network::NetworkConfig,
    ) -> Result<Arc<Self>, Error> {
        let journals = Journals::open(config.state_dir.join("sandboxes"))
            .map_err(Error::step("open the directory of sandboxes"))?;
        let found = recovery::survey(&journals, &config, engine.as_ref(), &builds).await?;
        let slots = SlotPool::start(network, &found.slots())
            .await
            .map_err(Error::step("prepare the network"))?;
        let shared = Arc::new(Shared {
            config,
            engine,
            slots,
            journals,
            registry: Registry::default(),
            detach: CancellationToken::new(),
        });
        let node = Arc::new(Self {
            shared,
            builds,
            drivers: TaskTracker::new(),
        });
        for adopted in found.adopted {
            node.resume_driving(adopted).await;
        }
        Ok(node)
    }

    /// Starts a sandbox and waits until a command can run in it.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::BuildNotFound`], [`Error::Capacity`],
    /// [`Error::Invalid`] for an end time that has passed, [`Error::Step`].
    pub async fn create(&self, spec: SandboxSpec, end_at: DateTime<Utc>) -> Result<Status, Error> {
        if self.shared.detach.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let now = Utc::now();
        if end_at <= now {
            return Err(Error::Invalid("the end time has passed".to_owned()));
        }
        let build =
            self.builds
                .open(spec.build_id)
                .await
                .map_err(|source| Error::BuildNotFound {
                    build: spec.build_id,
                    source,
                })?;
        let id = spec.sandbox_id.clone();
        let record = Record::new(spec, now, end_at);
        let (driver, handle) = Driver::new(
            Arc::clone(&self.shared),
            build,
            record,
            Resources::default(),
        );
        self.shared
            .registry
            .insert(&id, handle, |count| self.refuse(count))?;
        let (started, result) = oneshot::channel();
        // The driver goes on if the caller goes away; the sandbox is then ended
        // by its end time, as one whose answer was lost on the way.
        self.drivers.spawn(driver.start_and_run(started));
        result.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// # Errors
    /// [`Error::NotFound`]; [`Error::Step`] when the change cannot be kept.
    pub async fn update(
        &self,
        id: &SandboxId,
        end_at: Option<EndAt>,
        network_json: Option<String>,
    ) -> Result<Status, Error> {
        let handle = self.shared.registry.get(id)?;
        let (reply, result) = oneshot::channel();
        let gone = || Error::NotFound(id.clone());
        handle
            .commands
            .send(Command::Update {
                end_at,
                network_json,
                reply,
            })
            .await
            .map_err(|_| gone())?;
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Ends a sandbox; returns when its VM has ended and it is listed no more.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete(&self, id: &SandboxId) -> Result<(), Error> {
        let handle = self.shared.registry.get(id)?;
        let (reply, stopped) = oneshot::channel();
        let gone = || Error::NotFound(id.clone());
        handle
            .commands
            .send(Command::Stop { reply })
            .await
            .map_err(|_| gone())?;
        stopped.await.map_err(|_| gone())
    }

    #[must_use]
    pub fn list(&self) -> Vec<Status> {
        self.shared.registry.statuses()
    }

    /// # Errors
    /// [`Error::NotFound`].
    pub fn status(&self, id: &SandboxId) -> Result<Status, Error> {
        Ok(self.shared.registry.get(id)?.status())
    }

    /// Where to reach a sandbox, from the moment its network is up to its end.
    #[must_use]
    pub fn target(&self, id: &SandboxId) -> Option<Target> {
        let handle = self.shared.registry.get(id).ok()?;
        let status = handle.status();
        Some(Target {
            sandbox_id: id.clone(),
            address: status.address?,
            envd_access_token: status.spec.envd_access_token.clone(),
            traffic_access_token: status.spec.traffic_access_token.clone(),
            network_json: status.spec.network_json.clone(),
            closed: handle.closed,
        })
    }

    /// Ids of the sandboxes that have a [`Target`] at this moment.
    #[must_use]
    pub fn target_ids(&self) -> Vec<SandboxId> {
        let statuses = self.list().into_iter();
        statuses
            .filter(|s| s.address.is_some())
            .map(|s| s.spec.sandbox_id.clone())
            .collect()
    }

    /// # Errors
    /// [`Error::Step`] when the host's memory cannot be read.
    pub async fn info(&self) -> Result<Info, Error> {
        let (available, total) =
            admission::host_memory_bytes().map_err(Error::step("read the host's memory"))?;
        let capabilities = self.shared.engine.capabilities();
        let builds = self
            .builds
            .list()
            .await
            .map_err(Error::step("list the builds"))?;
        Ok(Info {
            node_id: self.shared.config.node_id.clone(),
            engine: capabilities.engine.to_string(),
            accelerator: capabilities.accelerator.to_string(),
            sandboxes: self.shared.registry.len(),
            sandboxes_max: self.shared.config.max_sandboxes,
            memory_total_bytes: total,
            memory_available_bytes: available,
            builds: builds.iter().map(|manifest| manifest.build_id).collect(),
        })
    }

    /// Ends every sandbox, a bounded number at a time.
    pub async fn delete_all(&self) {
        use futures::StreamExt;
        const AT_ONCE: usize = 16;
        let ids = self
            .list()
            .into_iter()
            .map(|status| status.spec.sandbox_id.clone());
        futures::stream::iter(ids)
            .for_each_concurrent(AT_ONCE, |id| async move {
                // One that ended meanwhile is what was wanted.
                let _ = self.delete(&id).await;
            })
            .await;
    }

    /// Lets go of every VM, leaving it running for the next daemon, and removes
    /// the slots that no sandbox uses. Waits at most `limit` for the drivers.
    pub async fn shutdown(&self, limit: Duration) {
        self.shared.detach.cancel();
        self.drivers.close();
        if tokio::time::timeout(limit, self.drivers.wait())
            .await
            .is_err()
        {
            tracing::error!("sandboxes were still being changed at the stop; their journals tell");
        }
        let keep = found_slots(&self.shared);
        if let Err(error) = self.shared.slots.shutdown(&keep).await {
            tracing::error!(error = %chain(&error), "cleaning up the network failed");
        }
    }

    async fn resume_driving(&self, adopted: recovery::Adopted) {
        let recovery::Adopted {
            build,
            record,
            machine,
        } = adopted;
        let id = record.spec.sandbox_id.clone();
        let resources = Resources::adopt(&self.shared, &build, &record, machine).await;
        let (driver, handle) = Driver::new(Arc::clone(&self.shared), build, record, resources);
        if let Err(error) = self.shared.registry.insert(&id, handle, |_| None) {
            tracing::error!(sandbox = %id, %error, "two journals name one sandbox");
            return;
        }
        tracing::info!(sandbox = %id, "adopted a running sandbox");
        self.drivers.spawn(driver.run());
    }

    fn refuse(&self, count: Count) -> Option<Error> {
        let config = &self.shared.config;
        let memory = admission::host_memory_bytes();
        let disk = admission::disk_available_bytes(&config.state_dir);
        let (memory_available_bytes, disk_available_bytes) = match (memory, disk) {
            (Ok((available, _)), Ok(disk)) => (available, disk),
            (Err(error), _) | (_, Err(error)) => {
                return Some(Error::step("measure the host's free memory and disk space")(error));
            }
        };
        let facts = Facts {
            sandboxes: count.all,
            starting: count.starting,
            memory_available_bytes,
            disk_available_bytes,
        };
        let limits = Limits {
            max_sandboxes: config.max_sandboxes,
            memory_reserve_bytes: config.memory_reserve_bytes,
            disk_reserve_bytes: config.disk_reserve_bytes,
        };
        admission::refuse(facts, limits).map(Error::Capacity)
    }
}

/// Slots of the sandboxes that go on, by their journals: the drivers have ended.
fn found_slots(shared: &Shared) -> Vec<u32> {
    match shared.journals.scan() {
        Ok(found) => found.iter().filter_map(Found::slot).collect(),
        Err(error) => {
            tracing::error!(%error, "reading the journals at the stop failed");
            Vec::new()
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Node")
            .field("sandboxes", &self.shared.registry.len())
            .finish()
    }
}
