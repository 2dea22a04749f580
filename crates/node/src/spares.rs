//! VMs made ahead. A spare is a sandbox without an owner: restored from a build,
//! its agent and a shell used once, then stopped. A create that takes one has only
//! to let it run and to tell its agent whose it is.
//!
//! Why it pays: a restored VM starts with cold processor caches and, where guests
//! are emulated, with nothing translated. The first request to its agent and the
//! first shell cost many times what later ones do, and a spare has paid that. A
//! template whose server is to be quick from the first request has a program
//! `/etc/hearth/rehearse`, which a spare's shell runs.
//!
//! A spare has its sandbox id from the beginning, and with it the names of all that
//! it holds, so nothing is renamed when it is taken. Whoever wants one reserves it
//! by its build and then creates a sandbox of the id that it got. Its journal says
//! `starting` until then: a daemon that dies leaves no spare behind.
//!
//! Spares are made for builds that were asked for lately, and given up when they
//! are in the way: they count against no limit, and a start that finds no room ends
//! them first.

use crate::{
    agent::{self, Init},
    config::AGENT_PORT,
    error::{Error, chain},
    journal::{Origin, Record},
    node::Shared,
    sandbox::{ground::Ground, resources::Resources, setup},
    spec::{SandboxSpec, TimeoutAction},
};
use chrono::{TimeDelta, Utc};
use futures::FutureExt;
use hearth_client::{Command, SandboxClient};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use hearth_network::services::SERVICE_ADDRESS;
use hearth_snapshot::{ArtefactStore, Kind};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// A build that nobody asked for in this time gets no spares.
const WANTED_FOR: Duration = Duration::from_secs(15 * 60);
/// A reservation that no create follows.
const RESERVED_FOR: Duration = Duration::from_secs(10);
/// How often dead, forgotten and needless spares are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a reservation waits for a spare that is being made.
const WAIT_FOR_MAKING: Duration = Duration::from_secs(2);
/// A build whose spare could not be made gets no other for so long.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// How long the first request to a spare's agent, and its shell, may take.
const WARM_LIMIT: Duration = Duration::from_secs(20);
/// What the spare's shell runs: the template's own rehearsal, where it has one.
const WARM_LINE: &str = "[ ! -x /etc/hearth/rehearse ] || /etc/hearth/rehearse";

pub(crate) struct Spares {
    per_build: usize,
    state: Mutex<State>,
    /// Something is to be made or ended.
    work: Notify,
    /// A spare was made, or its making failed.
    made: Notify,
}

#[derive(Default)]
struct State {
    spares: HashMap<SandboxId, Entry>,
    wanted: HashMap<BuildId, Wish>,
    making: Option<BuildId>,
    /// The daemon goes down, or the host is short: nothing is given out.
    closed: bool,
}

struct Entry {
    spare: Spare,
    reserved_at: Option<Instant>,
}

struct Wish {
    last: Instant,
    /// No attempt before this.
    not_before: Option<Instant>,
}

/// A VM that stands still and has no owner yet.
pub(crate) struct Spare {
    pub ground: Ground,
    pub record: Record,
    pub resources: Resources,
}

impl Spare {
    fn build(&self) -> BuildId {
        self.record.spec.build_id
    }

    /// Whether it can be a sandbox of this build.
    pub(crate) fn fits(&self, build: BuildId) -> bool {
        self.build() == build && self.is_alive()
    }

    fn is_alive(&self) -> bool {
        self.resources.vm_ended().now_or_never().is_none()
    }
}

impl Spares {
    /// Keeps up to `per_build` spares of each build in use; with 0, none.
    pub(crate) fn new(per_build: usize) -> Self {
        Self {
            per_build,
            state: Mutex::default(),
            work: Notify::new(),
            made: Notify::new(),
        }
    }

    /// The id of a spare of this build, to create a sandbox with. Waits a moment
    /// when the next one is just being made. `None`: make one from nothing.
    pub(crate) async fn reserve(&self, build: BuildId) -> Option<SandboxId> {
        if self.per_build == 0 {
            return None;
        }
        let deadline = tokio::time::Instant::now() + WAIT_FOR_MAKING;
        loop {
            let made = self.made.notified();
            tokio::pin!(made);
            made.as_mut().enable();
            match self.try_reserve(build) {
                Reserve::Got(id) => return Some(id),
                Reserve::None => return None,
                Reserve::Soon => {
                    tokio::time::timeout_at(deadline, made).await.ok()?;
                }
            }
        }
    }

    fn try_reserve(&self, build: BuildId) -> Reserve {
        let mut state = self.lock();
        if state.closed {
            return Reserve::None;
        }
        let now = Instant::now();
        let wish = state.wanted.entry(build).or_insert(Wish {
            last: now,
            not_before: None,
        });
        wish.last = now;
        self.work.notify_one();
        let making = state.making == Some(build);
        let free = state.spares.iter_mut().find(|(_, entry)| {
            entry.reserved_at.is_none() && entry.spare.build() == build && entry.spare.is_alive()
        });
        match free {
            Some((id, entry)) => {
                entry.reserved_at = Some(now);
                Reserve::Got(id.clone())
            }
            None if making => Reserve::Soon,
            None => Reserve::None,
        }
    }

    /// Takes the spare of this id for good, in whatever state it is.
    pub(crate) fn take(&self, id: &SandboxId) -> Option<Spare> {
        let taken = self.lock().spares.remove(id);
        self.work.notify_one();
        taken.map(|entry| entry.spare)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The build that is most in need of a spare, marked as being made.
    fn next_to_make(&self) -> Option<BuildId> {
        let mut state = self.lock();
        let now = Instant::now();
        let lacking = state.wanted.iter().filter(|(build, wish)| {
            let there = state.spares.values();
            let there = there.filter(|entry| entry.spare.build() == **build).count();
            wish.not_before.is_none_or(|at| at <= now) && there < self.per_build
        });
        let build = lacking
            .max_by_key(|(_, wish)| wish.last)
            .map(|(build, _)| *build);
        state.making = if state.closed { None } else { build };
        state.making
    }

    fn made(&self, build: BuildId, result: Result<Spare, Error>) -> Option<Spare> {
        let mut state = self.lock();
        state.making = None;
        let refused = match result {
            Ok(spare) if state.closed => Some(spare),
            Ok(spare) => {
                let id = spare.record.spec.sandbox_id.clone();
                let entry = Entry {
                    spare,
                    reserved_at: None,
                };
                state.spares.insert(id, entry);
                None
            }
            Err(error) => {
                tracing::warn!(%build, error = %chain(&error), "cannot make a sandbox ahead");
                if let Some(wish) = state.wanted.get_mut(&build) {
                    wish.not_before = Some(Instant::now() + AFTER_FAILURE);
                }
                None
            }
        };
        drop(state);
        self.made.notify_waiters();
        refused
    }

    /// Spares that are dead, too many, or of builds that nobody wants any more.
    fn take_needless(&self) -> Vec<Spare> {
        let mut state = self.lock();
        let now = Instant::now();
        state
            .wanted
            .retain(|_, wish| now.duration_since(wish.last) < WANTED_FOR);
        let State { spares, wanted, .. } = &mut *state;
        for entry in spares.values_mut() {
            if entry
                .reserved_at
                .is_some_and(|at| now.duration_since(at) > RESERVED_FOR)
            {
                entry.reserved_at = None;
            }
        }
        let needless: Vec<SandboxId> = spares
            .iter()
            .filter(|(_, entry)| {
                let wanted = wanted.contains_key(&entry.spare.build());
                entry.reserved_at.is_none() && (!wanted || !entry.spare.is_alive())
            })
            .map(|(id, _)| id.clone())
            .collect();
        needless
            .iter()
            .filter_map(|id| spares.remove(id))
            .map(|entry| entry.spare)
            .collect()
    }

    /// Every spare that is not promised to anybody; none of these builds is wanted
    /// any more until it is asked for again.
    fn take_free(&self) -> Vec<Spare> {
        let mut state = self.lock();
        state.wanted.clear();
        let free: Vec<SandboxId> = state
            .spares
            .iter()
            .filter(|(_, entry)| entry.reserved_at.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        free.iter()
            .filter_map(|id| state.spares.remove(id))
            .map(|entry| entry.spare)
            .collect()
    }

    fn close(&self) -> Vec<Spare> {
        let mut state = self.lock();
        state.closed = true;
        state.spares.drain().map(|(_, entry)| entry.spare).collect()
    }
}

enum Reserve {
    Got(SandboxId),
    Soon,
    None,
}

/// Makes and ends spares until the daemon goes down; then ends them all.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let spares = &shared.spares;
    loop {
        tokio::select! {
            () = shared.detach.cancelled() => break,
            () = spares.work.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY), if !spares.lock().wanted.is_empty() => {}
        }
        for spare in spares.take_needless() {
            discard(&shared, spare).await;
        }
        while !shared.detach.is_cancelled()
            && let Some(build) = spares.next_to_make()
        {
            let made = match shared.refuse(shared.registry.count()) {
                Some(full) => Err(full),
                None => make(&shared, build).await,
            };
            if let Some(spare) = spares.made(build, made) {
                discard(&shared, spare).await;
            }
        }
    }
    for spare in spares.close() {
        discard(&shared, spare).await;
    }
}

/// Ends the spares that nobody is about to take, to make room. Whether there
/// were any.
pub(crate) async fn make_room(shared: &Shared) -> bool {
    let free = shared.spares.take_free();
    let any = !free.is_empty();
    for spare in free {
        discard(shared, spare).await;
    }
    any
}

async fn make(shared: &Shared, build: BuildId) -> Result<Spare, Error> {
    let _lease = shared.builds.lease(build);
    let opened = shared
        .builds
        .open(build)
        .await
        .map_err(Error::build(build))?;
    if opened.manifest.kind != Kind::Template {
        return Err(Error::Invalid("only templates have spares".to_owned()));
    }
    let ground = Ground::load(&shared.builds, Origin::Restored(build), build).await?;
    if ground.disk.memory.is_none() {
        return Err(Error::Invalid("the build keeps no memory".to_owned()));
    }
    let now = Utc::now();
    let mut record = Record::new(nobody(build), now, now + TimeDelta::days(3650));
    record.shape = Some(ground.disk.build.manifest.shape);
    shared
        .journals
        .create(&record)
        .map_err(Error::step("write the sandbox's journal"))?;
    let mut spare = Spare {
        ground,
        record,
        resources: Resources::default(),
    };
    match prepare(shared, &mut spare).await {
        Ok(()) => Ok(spare),
        Err(error) => {
            discard(shared, spare).await;
            Err(error)
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

async fn prepare(shared: &Shared, spare: &mut Spare) -> Result<(), Error> {
    let Spare {
        ground,
        record,
        resources,
    } = spare;
    setup::launch(shared, ground, record, resources).await?;
    let host = resources
        .address()
        .ok_or_else(|| Error::step("reach the spare")("it has no address".to_owned()))?;
    let address = SocketAddr::from((host, AGENT_PORT));
    tokio::select! {
        warmed = warm(shared, address, &record.spec.sandbox_id) => warmed?,
        why = resources.vm_ended() => return Err(Error::step("warm the spare up")(why)),
    }
    let machine = resources.machine.as_ref();
    let machine = machine.ok_or_else(|| Error::step("stop the spare")("no VM".to_owned()))?;
    machine
        .pause()
        .await
        .map_err(Error::step("stop the spare"))?;
    setup::write_journal(shared, record)
}

/// Uses what the first user will use: the agent's settings, a process, a shell.
async fn warm(shared: &Shared, address: SocketAddr, id: &SandboxId) -> Result<(), Error> {
    let settings = Init {
        env_vars: &BTreeMap::new(),
        access_token: None,
        timestamp: agent::now(),
        default_user: setup::DEFAULT_USER,
        default_workdir: setup::DEFAULT_WORKDIR,
        hostname: id.as_str(),
        entropy: agent::entropy(),
        sandbox_id: id.as_str(),
        template_id: "",
        machine_id: Some(agent::machine_id()),
        hyperloop_ip: SERVICE_ADDRESS,
        ca_bundle: shared.config.ca_bundle.as_deref(),
    };
    agent::init(address, &settings, None, WARM_LIMIT)
        .await
        .map_err(Error::step("warm the spare's agent up"))?;
    // A template without this user or shell is used otherwise: no reason to fail.
    let url = format!("http://{address}");
    match SandboxClient::direct(&url, id.clone(), "", WARM_LIMIT) {
        Ok(client) => {
            let line = Command::shell(WARM_LINE)
                .user(setup::DEFAULT_USER)
                .timeout(WARM_LIMIT);
            if let Err(error) = client.run(line).await {
                tracing::debug!(sandbox = %id, error = %chain(&error), "no shell to warm up");
            }
        }
        Err(error) => tracing::debug!(sandbox = %id, error = %chain(&error), "no client"),
    }
    Ok(())
}

/// Gives back what a spare holds.
pub(crate) async fn discard(shared: &Shared, mut spare: Spare) {
    let id = spare.record.spec.sandbox_id.clone();
    if let Err(error) = spare.resources.release(shared).await {
        tracing::error!(sandbox = %id, error = %chain(&error), "leaving what a spare held to the next start");
    } else if let Err(error) = shared.journals.remove(&id) {
        tracing::error!(sandbox = %id, %error, "removing a spare's files failed");
    }
}
