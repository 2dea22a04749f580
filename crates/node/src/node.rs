//! The node: starts sandboxes, finds them, ends them, and lets go of them when
//! the daemon goes down. It holds no sandbox itself; each has its driver.

use crate::{
    admission::{self, Facts, Limits},
    builds::{self, BuildInfo},
    config::NodeConfig,
    error::{Error, chain},
    events::{Outbox, SandboxEvent},
    hooks::{Announcer, Hooks, NoHooks},
    journal::{Journals, Keeping, Origin, Record},
    listing, recovery,
    registry::{Count, Registry},
    sandbox::{Command, Handle, driver::Driver, ground::Ground, resources::Resources, volumes},
    spec::{SandboxSpec, SandboxState, Status},
    start_limit::{self, StartLimit},
    view::{Info, Target},
    warm_pool::{self, WarmPool, WarmSandbox},
    watch::{Revision, Source, Watcher},
};
use chrono::{DateTime, Utc};
use hearth_egress::Egress;
use hearth_ids::{BuildId, SandboxId};
use hearth_machine::Engine;
use hearth_network::SlotPool;
use hearth_nfs::VolumeServer;
use hearth_snapshot::{BuildCache, BuildCollection, LocalStore};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::{Notify, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::sandbox::EndAt;

/// What every driver uses.
pub(crate) struct Shared {
    pub config: NodeConfig,
    pub engine: Arc<dyn Engine>,
    pub slots: SlotPool,
    pub egress: Egress,
    pub volumes: Arc<VolumeServer>,
    pub journals: Journals,
    pub outbox: Outbox,
    pub registry: Registry,
    pub builds: Arc<LocalStore>,
    pub hooks: Announcer,
    pub warm_pool: WarmPool,
    pub start_limit: StartLimit,
    /// Told when a build may have become needless.
    pub collect: Notify,
    /// Cancelled when the daemon goes down: drivers let go of their VMs.
    pub detach: CancellationToken,
}

pub struct Node {
    pub(crate) shared: Arc<Shared>,
    drivers: TaskTracker,
}

impl Node {
    /// Brings the node up: adopts every VM that a former daemon left running,
    /// cleans up after every one that died, then fills the slot pool.
    ///
    /// # Errors
    /// When the state directory cannot be read or the network cannot be set up.
    /// A single sandbox is never an error: one that did not outlive the stop is cleaned
    /// up after, one that cannot be made sense of is left as it is.
    pub async fn start(
        config: NodeConfig,
        engine: Arc<dyn Engine>,
        builds: Arc<LocalStore>,
        network: hearth_network::NetworkConfig,
    ) -> Result<Arc<Self>, Error> {
        Self::start_with(config, engine, builds, network, Arc::new(NoHooks)).await
    }

    /// The same, with somebody who is told of every step of longer operations.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        config: NodeConfig,
        engine: Arc<dyn Engine>,
        builds: Arc<LocalStore>,
        mut network: hearth_network::NetworkConfig,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Arc<Self>, Error> {
        let journals = Journals::open(config.state_dir.join("sandboxes"))
            .map_err(Error::step("open the directory of sandboxes"))?;
        let outbox = Outbox::open(config.state_dir.join("events"))
            .map_err(Error::step("open the directory of events"))?;
        let found =
            recovery::survey((&journals, &outbox), &config, engine.as_ref(), &builds).await?;
        let egress = Egress::bind(config.egress.clone())
            .await
            .map_err(Error::step("listen for guests"))?;
        network.services = Some(egress.ports());
        let volumes = volumes::server(&config)?;
        let slots = SlotPool::start(network, &found.slots())
            .await
            .map_err(Error::step("prepare the network"))?;
        let shared = Arc::new(Shared {
            warm_pool: WarmPool::new(&config)?,
            start_limit: StartLimit::new(start_limit::processors()),
            config,
            engine,
            slots,
            egress,
            volumes,
            journals,
            outbox,
            registry: Registry::default(),
            builds,
            hooks: Announcer(hooks),
            collect: Notify::new(),
            detach: CancellationToken::new(),
        });
        let node = Arc::new(Self {
            shared,
            drivers: TaskTracker::new(),
        });
        for adopted in found.adopted {
            node.resume_driving(adopted).await;
        }
        for record in found.paused {
            node.keep_paused(record);
        }
        // Only now is every build leased that somebody needs.
        node.shared.collect.notify_one();
        node.drivers
            .spawn(collect_garbage(Arc::clone(&node.shared)));
        node.drivers.spawn(warm_pool::run(Arc::clone(&node.shared)));
        if let Some(listener) = node.shared.egress.take_volumes_listener() {
            node.shared.volumes.start(listener);
        }
        node.shared.egress.start();
        Ok(node)
    }

    /// Starts a sandbox and waits until a command can run in it.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::BuildNotFound`], [`Error::Capacity`],
    /// [`Error::Invalid`] for an end time that has passed, [`Error::Step`].
    pub async fn create(&self, spec: SandboxSpec, end_at: DateTime<Utc>) -> Result<Status, Error> {
        self.create_fork(spec, end_at, None).await
    }

    /// The same for a sandbox that goes on from the state of another one.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn create_fork(
        &self,
        spec: SandboxSpec,
        end_at: DateTime<Utc>,
        of: Option<SandboxId>,
    ) -> Result<Status, Error> {
        if self.shared.detach.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        crate::journal::check_spec(&spec).map_err(Error::Invalid)?;
        let now = Utc::now();
        if end_at <= now {
            return Err(Error::Invalid("the end time has passed".to_owned()));
        }
        volumes::check(&self.shared, &spec, of.is_some())?;
        // Leased before it is looked at, by `Ground` for as long as it is needed.
        let _lease = self.shared.builds.lease(spec.build_id);
        let build = spec.build_id;
        self.shared
            .builds
            .open(build)
            .await
            .map_err(Error::build(build))?;
        let id = spec.sandbox_id.clone();
        let driver = match self.shared.warm_pool.take(&id) {
            Some(warm) if warm.fits(build) => self.claim(warm, (spec, of), now, end_at)?,
            unfit => {
                // It died since it was promised. Its id is free once it is gone.
                if let Some(warm) = unfit {
                    warm_pool::discard(&self.shared, warm).await;
                }
                Box::pin(self.driver_from_nothing((spec, of), now, end_at)).await?
            }
        };
        let (started, result) = oneshot::channel();
        // The driver goes on if the caller goes away; the sandbox is then ended
        // by its end time, as one whose answer was lost on the way.
        self.drivers.spawn(driver.start_and_run(started));
        result.await.unwrap_or(Err(Error::ShuttingDown))
    }

    async fn driver_from_nothing(
        &self,
        (spec, of): (SandboxSpec, Option<SandboxId>),
        now: DateTime<Utc>,
        end_at: DateTime<Utc>,
    ) -> Result<Driver, Error> {
        let build = spec.build_id;
        let mut ground = Ground::load(&self.shared.builds, Origin::Restored(build), build).await?;
        if ground.disk.memory.is_none() {
            ground.memory = None;
        }
        let id = spec.sandbox_id.clone();
        let mut record = Record::new(spec, now, end_at);
        record.forked_from = of;
        record.shape = Some(ground.disk.build.manifest.shape);
        let admit = || {
            let (driver, handle) = Driver::new(
                Arc::clone(&self.shared),
                Some(ground),
                record,
                Resources::default(),
            );
            let admitted = self
                .shared
                .registry
                .insert(&id, handle, |count| self.shared.refuse(count));
            admitted.map(|()| driver)
        };
        let full = |count| matches!(self.shared.refuse(count), Some(Error::Capacity(_)));
        if full(self.shared.registry.count()) {
            warm_pool::make_room(&self.shared).await;
        }
        admit()
    }

    /// Makes a warm sandbox that of these settings. Its room was taken before: it is
    /// refused only where nothing at all may start.
    fn claim(
        &self,
        warm: WarmSandbox,
        (spec, of): (SandboxSpec, Option<SandboxId>),
        now: DateTime<Utc>,
        end_at: DateTime<Utc>,
    ) -> Result<Driver, Error> {
        let WarmSandbox {
            ground,
            record: made,
            resources,
        } = warm;
        let id = spec.sandbox_id.clone();
        let mut record = made.given_to(spec, now, end_at);
        record.forked_from = of;
        let (driver, handle) =
            Driver::new(Arc::clone(&self.shared), Some(ground), record, resources);
        let admitted = self
            .shared
            .registry
            .insert(&id, handle, |count| self.shared.refuse(count));
        match admitted {
            Ok(()) => Ok(driver),
            Err(refusal) => {
                self.drivers.spawn(driver.give_up());
                Err(refusal)
            }
        }
    }

    /// The id of a warm sandbox of this build, to create it with.
    pub async fn reserve(&self, build: BuildId) -> Option<SandboxId> {
        if self.shared.detach.is_cancelled() {
            return None;
        }
        self.shared.warm_pool.reserve(build).await
    }

    /// # Errors
    /// [`Error::NotFound`]; [`Error::Step`] when the change cannot be kept.
    pub async fn update(
        &self,
        id: &SandboxId,
        end_at: Option<EndAt>,
        network_json: Option<String>,
    ) -> Result<Status, Error> {
        self.ask(id, |reply| Command::Update {
            end_at,
            network_json,
            reply,
        })
        .await
    }

    /// Keeps a running sandbox's state as the build of the given id, and stops it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::State`] unless it runs; any other, and it
    /// runs on.
    pub async fn pause(
        &self,
        id: &SandboxId,
        build: BuildId,
        with_memory: bool,
    ) -> Result<Status, Error> {
        let keeping = Keeping { build, with_memory };
        self.ask(id, |reply| Command::Pause { keeping, reply })
            .await
    }

    /// Continues a paused sandbox; `discard_memory` boots it from its disk.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::State`] unless it is paused;
    /// [`Error::Damaged`], [`Error::Capacity`] or any other, and it stays paused.
    pub async fn resume(
        &self,
        id: &SandboxId,
        end_at: DateTime<Utc>,
        discard_memory: bool,
    ) -> Result<Status, Error> {
        self.ask(id, |reply| Command::Resume {
            end_at,
            discard_memory,
            reply,
        })
        .await
    }

    /// Keeps a running sandbox's state as a build; the sandbox goes on.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn checkpoint(&self, id: &SandboxId, build: BuildId) -> Result<Status, Error> {
        self.checkpoint_for(id, build, false).await
    }

    /// The same, for forks where it says so: that is told of differently.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn checkpoint_for(
        &self,
        id: &SandboxId,
        build: BuildId,
        fork: bool,
    ) -> Result<Status, Error> {
        self.ask(id, |reply| Command::Checkpoint { build, fork, reply })
            .await
    }

    /// Forgets events that are kept elsewhere, and answers the oldest of the others with
    /// their numbers, waiting for one at most so long.
    pub async fn events(&self, acknowledged: &[u64], wait: Duration) -> Vec<(u64, SandboxEvent)> {
        let outbox = &self.shared.outbox;
        outbox.acknowledge(acknowledged);
        let mut news = outbox.news();
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        loop {
            let found = outbox.oldest(listing::PAGE_BYTES);
            if !found.is_empty() {
                return found;
            }
            tokio::select! {
                () = self.shared.detach.cancelled() => return Vec::new(),
                () = &mut deadline => return Vec::new(),
                _ = news.changed() => {}
            }
        }
    }

    /// Puts a running sandbox back to a build.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::State`] unless it runs;
    /// [`Error::BuildNotFound`], [`Error::Damaged`] and [`Error::Invalid`], and it
    /// runs on; any other, and it is paused at the build.
    pub async fn roll_back(&self, id: &SandboxId, build: BuildId) -> Result<Status, Error> {
        self.ask(id, |reply| Command::Rollback { build, reply })
            .await
    }

    /// Sends a driver a command and waits for its answer.
    async fn ask<T>(
        &self,
        id: &SandboxId,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        if self.shared.detach.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let handle = self.shared.registry.get(id)?;
        let (reply, result) = oneshot::channel();
        let gone = || match self.shared.detach.is_cancelled() {
            true => Error::ShuttingDown,
            false => Error::NotFound(id.clone()),
        };
        handle
            .commands
            .send(command(reply))
            .await
            .map_err(|_| gone())?;
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The builds here that are in use or can be, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn builds(&self) -> Result<Vec<BuildInfo>, Error> {
        builds::list(&self.shared.builds).await
    }

    /// Lets no further sandbox be started from a build, and ends its warm ones; its
    /// files go when nothing needs them any more.
    ///
    /// # Errors
    /// [`Error::BuildNotFound`].
    pub async fn delete_build(&self, build: BuildId) -> Result<(), Error> {
        // First of all, and also where somebody else has deleted the build already.
        warm_pool::forget(&self.shared, build).await;
        self.shared
            .builds
            .retire(build)
            .await
            .map_err(Error::build(build))?;
        self.shared.collect.notify_one();
        Ok(())
    }

    /// Ends a sandbox; returns when its VM has ended and it is listed no more, with
    /// the number of that change.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete(&self, id: &SandboxId) -> Result<u64, Error> {
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

    /// Tells the sequence numbers of this run of the node from those of others.
    pub(crate) fn instance(&self) -> u64 {
        self.shared.registry.instance()
    }

    /// Watches all sandboxes, until `end`.
    ///
    /// # Errors
    /// [`Error::Capacity`] when too many watch.
    pub(crate) fn watch(
        &self,
        after: Option<Revision>,
        end: CancellationToken,
    ) -> Result<Watcher<Shared>, Error> {
        Watcher::new(Arc::clone(&self.shared), after, end)
            .ok_or_else(|| Error::Capacity("too many watch".to_owned()))
    }

    pub(crate) fn page(&self, query: &listing::Query) -> listing::Page {
        listing::page(self.list(), query)
    }

    /// Whether there is such a sandbox, in any state: one look-up in memory.
    #[must_use]
    pub fn has(&self, id: &SandboxId) -> bool {
        self.shared.registry.has(id)
    }

    /// # Errors
    /// [`Error::NotFound`].
    pub fn status(&self, id: &SandboxId) -> Result<Status, Error> {
        self.shared.registry.status(id)
    }

    /// Where to reach a sandbox that can answer: not one on its way to a pause or
    /// back from it, which is first to be waited for.
    #[must_use]
    pub fn target(&self, id: &SandboxId) -> Option<Target> {
        let handle = self.shared.registry.get(id).ok()?;
        let crate::sandbox::View { status, closed } = handle.view.borrow().clone();
        let on_its_way = matches!(
            status.state,
            SandboxState::Pausing | SandboxState::Paused | SandboxState::Resuming
        );
        if on_its_way {
            return None;
        }
        Some(Target {
            sandbox_id: id.clone(),
            address: status.address?,
            envd_access_token: status.spec.envd_access_token.clone(),
            traffic_access_token: status.spec.traffic_access_token.clone(),
            network_json: status.spec.network_json.clone(),
            closed,
        })
    }

    /// Whether `peer`, where it is a sandbox of this node on its way through the edge,
    /// may send a request to this host or this port of another sandbox.
    #[must_use]
    pub fn egress_permits(
        &self,
        peer: SocketAddr,
        host: Option<&str>,
        sandbox: Option<(&SandboxId, u16)>,
    ) -> bool {
        self.shared.egress.permits_visit(peer, host, sandbox)
    }

    /// The sandbox of this node whose connection reaches the edge from `peer`; `None`
    /// for all others.
    #[must_use]
    pub fn egress_visitor(&self, peer: SocketAddr) -> Option<SandboxId> {
        self.shared.egress.visitor(peer)
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

    /// The network slots that sandboxes come from, for other VMs of this node.
    #[must_use]
    pub fn slots(&self) -> &SlotPool {
        &self.shared.slots
    }

    /// # Errors
    /// [`Error::Step`] when the host's memory cannot be read.
    pub fn info(&self) -> Result<Info, Error> {
        let (available, total) =
            admission::host_memory_bytes().map_err(Error::step("read the host's memory"))?;
        let capabilities = self.shared.engine.capabilities();
        Ok(Info {
            node_id: self.shared.config.node_id.clone(),
            engine: capabilities.engine.to_string(),
            accelerator: capabilities.accelerator.to_string(),
            sandboxes: self.shared.registry.active(),
            sandboxes_max: self.shared.config.max_sandboxes,
            memory_total_bytes: total,
            memory_available_bytes: available,
        })
    }

    /// Ends every sandbox that is not paused, a bounded number at a time.
    pub async fn delete_all(&self) {
        use futures::StreamExt;
        const AT_ONCE: usize = 16;
        let ids = self
            .list()
            .into_iter()
            .filter(|status| status.state != SandboxState::Paused)
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
        self.shared.egress.stop(limit).await;
        self.shared.volumes.stop(limit).await;
        let keep = self.shared.journals.kept_slots();
        if let Err(error) = self.shared.slots.shutdown(&keep).await {
            tracing::error!(error = %chain(&error), "cleaning up the network failed");
        }
        recovery::forget_quarantine(&self.shared.config.run_dir);
        hearth_confine::Cgroups::detect().remove_parent();
    }

    async fn resume_driving(&self, adopted: recovery::Adopted) {
        let recovery::Adopted {
            ground,
            record,
            machine,
        } = adopted;
        let id = record.spec.sandbox_id.clone();
        let resources = Resources::adopt(&self.shared, &ground, &record, machine).await;
        let (driver, handle) =
            Driver::new(Arc::clone(&self.shared), Some(ground), record, resources);
        if self.register(&id, handle) {
            tracing::info!(sandbox = %id, "adopted a running sandbox");
            self.drivers.spawn(driver.run_adopted());
        }
    }

    fn keep_paused(&self, record: Record) {
        let id = record.spec.sandbox_id.clone();
        let resources = Resources::default();
        let (driver, handle) = Driver::new(Arc::clone(&self.shared), None, record, resources);
        if self.register(&id, handle) {
            self.drivers.spawn(driver.run());
        }
    }

    fn register(&self, id: &SandboxId, handle: Handle) -> bool {
        let result = self.shared.registry.insert(id, handle, |_| None);
        if let Err(error) = &result {
            tracing::error!(sandbox = %id, %error, "two journals name one sandbox");
        }
        result.is_ok()
    }
}

impl Source for Shared {
    fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Shared {
    /// Why one more sandbox does not fit, if it does not.
    pub(crate) fn refuse(&self, count: Count) -> Option<Error> {
        let config = &self.config;
        let memory = admission::host_memory_bytes();
        let disk = admission::disk_available_bytes(&config.state_dir);
        let (memory_available_bytes, disk_available_bytes) = match (memory, disk) {
            (Ok((available, _)), Ok(disk)) => (available, disk),
            (Err(error), _) | (_, Err(error)) => {
                return Some(Error::step("measure the host's free memory and disk space")(error));
            }
        };
        let facts = Facts {
            sandboxes: count.active,
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

/// Removes builds that nothing needs any more, whenever that may have changed.
async fn collect_garbage(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.detach.cancelled() => return,
            () = shared.collect.notified() => {}
        }
        shared.journals.keep_reserve();
        match shared.builds.collect().await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::debug!(builds = removed.len(), "removed what nothing needs"),
            Err(error) => {
                tracing::error!(error = %chain(&error), "removing needless builds failed");
            }
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Node")
            .field("active", &self.shared.registry.active())
            .finish()
    }
}
