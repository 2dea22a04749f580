//! The warm pool: VMs made before anybody asks for them. A warm sandbox has no
//! owner: it was restored from a build, its agent and a shell were used once, and it
//! was paused. A create that takes one has only to let it run and to tell its agent
//! whose it is.
//!
//! Why it pays: a restored VM starts with cold processor caches and, where guests
//! are emulated, with nothing translated. The first request to its agent and the
//! first shell cost many times what later ones do, and a warm sandbox has paid that.
//! A template whose server is to be quick from the first request has a program
//! `/etc/hearth/rehearse`, which a warm sandbox's shell runs.
//!
//! A warm sandbox has its id from the beginning, and with it the names of all that
//! it holds, so nothing is renamed when it is taken. Whoever wants one reserves it
//! by its build and then creates a sandbox of the id that it got. Its journal says
//! `starting` until then: a daemon that dies leaves no warm sandbox behind.
//!
//! Which builds get warm sandboxes is decided by [`policy`]. They count against no
//! limit of sandboxes, have one together, and a start that finds no room ends them
//! first.

mod policy;

use crate::{
    admission,
    config::NodeConfig,
    error::{Error, chain},
    journal::{Origin, Record},
    node::Shared,
    sandbox::{ground::Ground, resources::Resources, setup},
    spec::{SandboxSpec, TimeoutAction},
};
use chrono::{TimeDelta, Utc};
use futures::FutureExt;
use hearth_agent_client::{Agent, Command, Init};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use hearth_network::services::SERVICE_ADDRESS;
use hearth_snapshot::{BuildCache, Kind};
use policy::{Limits, Policy, Reserve, Vm};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How often dead, forgotten and needless warm sandboxes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a reservation waits for a warm sandbox that is being made.
const WAIT_FOR_MAKING: Duration = Duration::from_secs(2);
/// How long the first request to a warm sandbox's agent, and its shell, may take.
const WARM_LIMIT: Duration = Duration::from_secs(20);
/// What the shell runs: the template's own rehearsal, where it has one.
const WARM_LINE: &str = "[ ! -x /etc/hearth/rehearse ] || /etc/hearth/rehearse";

pub(crate) struct WarmPool {
    policy: Mutex<Policy<WarmSandbox>>,
    /// Something is to be made or ended.
    work: Notify,
    /// A warm sandbox was made, or its making failed.
    made: Notify,
}

/// A sandbox whose VM is paused and that has no owner yet.
pub(crate) struct WarmSandbox {
    pub ground: Ground,
    pub record: Record,
    pub resources: Resources,
}

impl WarmSandbox {
    /// Whether it can be a sandbox of this build.
    pub(crate) fn fits(&self, build: BuildId) -> bool {
        self.record.spec.build_id == build && self.is_alive()
    }
}

impl Vm for WarmSandbox {
    fn is_alive(&self) -> bool {
        self.resources.vm_ended().now_or_never().is_none()
    }
}

/// How many warm sandboxes there may be, given the host's memory.
fn limits(per_build: usize, memory_percent: u8, memory_total_bytes: u64) -> Limits {
    let share = memory_total_bytes / 100 * u64::from(memory_percent.min(100));
    let total = share / admission::EXPECTED_PRIVATE_BYTES;
    Limits {
        per_build,
        total: usize::try_from(total).unwrap_or(usize::MAX),
    }
}

impl WarmPool {
    /// # Errors
    /// When the host's memory cannot be read.
    pub(crate) fn new(config: &NodeConfig) -> Result<Self, Error> {
        let memory = admission::host_memory_bytes();
        let (_, total) = memory.map_err(Error::step("read the host's memory"))?;
        Ok(Self {
            policy: Mutex::new(Policy::new(limits(
                config.warm_pool_size,
                config.warm_pool_memory_percent,
                total,
            ))),
            work: Notify::new(),
            made: Notify::new(),
        })
    }

    /// The id of a warm sandbox of this build, to create a sandbox with. Waits a
    /// moment when the next one is just being made. `None`: make one from nothing.
    pub(crate) async fn reserve(&self, build: BuildId) -> Option<SandboxId> {
        let deadline = tokio::time::Instant::now() + WAIT_FOR_MAKING;
        loop {
            let made = self.made.notified();
            tokio::pin!(made);
            made.as_mut().enable();
            let reserved = self.lock().reserve(build, Instant::now());
            self.work.notify_one();
            match reserved {
                Reserve::Got(id) => return Some(id),
                Reserve::None => return None,
                Reserve::Soon => {
                    tokio::time::timeout_at(deadline, made).await.ok()?;
                }
            }
        }
    }

    /// Takes the warm sandbox of this id for good, in whatever state it is.
    pub(crate) fn take(&self, id: &SandboxId) -> Option<WarmSandbox> {
        let taken = self.lock().take(id);
        self.work.notify_one();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Policy<WarmSandbox>> {
        // No code panics while it holds the lock; a poisoned state is still whole.
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no warm sandbox.
enum NotMade {
    /// The build can have none: nobody need try again.
    Unfit(&'static str),
    Failed(Error),
}

impl From<Error> for NotMade {
    fn from(error: Error) -> Self {
        match error {
            Error::BuildNotFound { .. } => Self::Unfit("it is deleted"),
            Error::Damaged { .. } => Self::Unfit("it is damaged"),
            Error::Incompatible(_) => Self::Unfit("its memory cannot go on here"),
            error => Self::Failed(error),
        }
    }
}

/// Makes and ends warm sandboxes until the daemon goes down; then ends them all.
pub(crate) async fn run(shared: Arc<Shared>) {
    let pool = &shared.warm_pool;
    loop {
        let idle = pool.lock().is_idle();
        tokio::select! {
            () = shared.detach.cancelled() => break,
            () = pool.work.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY), if !idle => {}
        }
        let expired = pool.lock().expire(Instant::now());
        discard_all(&shared, expired).await;
        loop {
            // Before anything counts as being made, which a create would wait for.
            let permit = tokio::select! {
                () = shared.detach.cancelled() => break,
                permit = shared.start_limit.background() => permit,
            };
            if !permit.hold(Box::pin(make_next(&shared))).await {
                break;
            }
        }
    }
    let rest = pool.lock().close();
    discard_all(&shared, rest).await;
}

/// Makes the VM that is wanted most. False where none is.
async fn make_next(shared: &Shared) -> bool {
    let next = shared.warm_pool.lock().next(Instant::now());
    let Some(next) = next else {
        return false;
    };
    discard_all(shared, next.evicted).await;
    Box::pin(make_one(shared, next.build)).await;
    true
}

async fn make_one(shared: &Shared, build: BuildId) {
    let pool = &shared.warm_pool;
    let made = match shared.refuse(shared.registry.count()) {
        Some(full) => Err(NotMade::Failed(full)),
        None => make(shared, build).await,
    };
    let needless = match made {
        Ok(warm) => {
            let id = warm.record.spec.sandbox_id.clone();
            pool.lock().made(build, id, warm).into_iter().collect()
        }
        Err(NotMade::Unfit(why)) => {
            tracing::debug!(%build, why, "build gets no warm sandboxes");
            pool.lock().exclude(build)
        }
        Err(NotMade::Failed(error)) => {
            tracing::warn!(%build, error = %chain(&error), "make warm sandbox failed");
            pool.lock().failed(build, Instant::now());
            Vec::new()
        }
    };
    pool.made.notify_waiters();
    discard_all(shared, needless).await;
}

/// Ends the warm sandboxes that nobody is about to take, to make room. Whether there
/// were any.
pub(crate) async fn make_room(shared: &Shared) -> bool {
    let free = shared.warm_pool.lock().take_free();
    let any = !free.is_empty();
    discard_all(shared, free).await;
    any
}

/// Ends the warm sandboxes of a build that is deleted.
pub(crate) async fn forget(shared: &Shared, build: BuildId) {
    let warm = shared.warm_pool.lock().exclude(build);
    discard_all(shared, warm).await;
}

async fn discard_all(shared: &Shared, warm: impl IntoIterator<Item = WarmSandbox>) {
    for warm in warm {
        discard(shared, warm).await;
    }
}

async fn make(shared: &Shared, build: BuildId) -> Result<WarmSandbox, NotMade> {
    let _lease = shared.builds.lease(build);
    let opened = shared
        .builds
        .open(build)
        .await
        .map_err(Error::build(build))?;
    if opened.manifest.kind != Kind::Template {
        return Err(NotMade::Unfit("it is not a template"));
    }
    let ground = Ground::load(&shared.builds, Origin::Restored(build), build).await?;
    if ground.disk.memory.is_none() {
        return Err(NotMade::Unfit("it keeps no memory"));
    }
    let now = Utc::now();
    let mut record = Record::new(nobody(build), now, now + TimeDelta::days(3650));
    record.shape = Some(ground.disk.build.manifest.shape);
    shared
        .journals
        .create(&record)
        .map_err(Error::step("write the sandbox's journal"))?;
    let mut warm = WarmSandbox {
        ground,
        record,
        resources: Resources::default(),
    };
    match prepare(shared, &mut warm).await {
        Ok(()) => Ok(warm),
        Err(error) => {
            discard(shared, warm).await;
            Err(error.into())
        }
    }
}

/// Settings of a sandbox that is nobody's.
fn nobody(build: BuildId) -> SandboxSpec {
    SandboxSpec {
        sandbox_id: SandboxId::random(),
        template_id: TemplateId::random(),
        build_id: build,
        team_id: TeamId::random(),
        alias: None,
        metadata: BTreeMap::new(),
        env_vars: BTreeMap::new(),
        envd_access_token: None,
        traffic_access_token: None,
        allow_internet_access: None,
        network_json: String::new(),
        lifecycle_json: String::new(),
        volume_mounts_json: String::new(),
        timeout_action: TimeoutAction::Kill,
    }
}

async fn prepare(shared: &Shared, warm: &mut WarmSandbox) -> Result<(), Error> {
    let WarmSandbox {
        ground,
        record,
        resources,
    } = warm;
    setup::launch(shared, ground, record, resources).await?;
    let host = resources
        .address()
        .ok_or_else(|| Error::step("reach the warm sandbox")("it has no address".to_owned()))?;
    let agent = Agent::new(host);
    tokio::select! {
        warmed = warm_up(shared, &agent, &record.spec.sandbox_id) => warmed?,
        why = resources.vm_ended() => return Err(Error::step("warm the sandbox up")(why)),
    }
    let machine = resources.machine();
    let machine =
        machine.ok_or_else(|| Error::step("pause the warm sandbox")("no VM".to_owned()))?;
    machine
        .pause()
        .await
        .map_err(Error::step("pause the warm sandbox"))?;
    setup::write_journal(shared, record)
}

/// Uses what the first user will use: the agent's settings, a process, a shell.
async fn warm_up(shared: &Shared, agent: &Agent, id: &SandboxId) -> Result<(), Error> {
    let env_vars = BTreeMap::new();
    let settings = Init {
        env_vars: Some(&env_vars),
        hostname: Some(id.as_str()),
        sandbox_id: Some(id.as_str()),
        hyperloop_ip: Some(SERVICE_ADDRESS),
        ca_bundle: shared.config.ca_bundle.as_deref(),
        ..Init::new(setup::DEFAULT_USER, setup::DEFAULT_WORKDIR).with_new_machine_id()
    };
    agent
        .init(&settings, WARM_LIMIT)
        .await
        .map_err(Error::step("warm the agent up"))?;
    // A template without this user or shell is used otherwise: no reason to fail.
    match agent.client(WARM_LIMIT) {
        Ok(client) => {
            let line = Command::shell(WARM_LINE)
                .user(setup::DEFAULT_USER)
                .timeout(WARM_LIMIT);
            if let Err(error) = client.run(line).await {
                tracing::debug!(sandbox = %id, error = %chain(&error), "warm shell up failed");
            }
        }
        Err(error) => {
            tracing::debug!(sandbox = %id, error = %chain(&error), "connect to agent failed")
        }
    }
    Ok(())
}

/// Gives back what a warm sandbox holds.
pub(crate) async fn discard(shared: &Shared, mut warm: WarmSandbox) {
    let id = warm.record.spec.sandbox_id.clone();
    if let Err(error) = warm.resources.release(shared).await {
        // The next start finds its journal and removes what is left.
        tracing::error!(sandbox = %id, error = %chain(&error), "release warm sandbox failed");
    } else if let Err(error) = shared.journals.remove(&id) {
        tracing::error!(sandbox = %id, %error, "remove warm sandbox's files failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_a_share_of_the_hosts_memory() {
        let of = |per_build, percent| {
            let Limits { per_build, total } = limits(per_build, percent, 16 << 30);
            (per_build, total)
        };
        assert_eq!(of(4, 25), (4, 31));
        assert_eq!(of(2, 100), (2, 127));
        assert_eq!(of(4, 0), (4, 0));
    }
}
