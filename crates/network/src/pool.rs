//! The slot pool: one task owns the ledger (`crate::ledger`) and is the only one to
//! change it; everybody else sends it commands through a bounded queue.
//!
//! The task only waits and books. What touches the kernel runs on threads that
//! exist for one job, at most [`WORKERS`] at a time, and reports back. Policy
//! changes are carried out one transaction at a time, in the order in which they
//! were asked for; what arrives meanwhile goes into the next transaction together.
//!
//! Failure: a slot that cannot be made fails the caller that waited for it, and
//! making slots ahead pauses for a growing while; a slot that cannot be cleaned is
//! removed; one that cannot be removed is not used again until the next start,
//! which removes it. When all handles are dropped without
//! [`SlotPool::shutdown`] the task ends and the slots stay for the next start to
//! adopt, as after a crash.

mod driver;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::address::Plan;
use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::owners::Owners;
use crate::policy::{Adoption, Policy};
use crate::slot::Slot;
use crate::{host, netns};
use driver::Driver;

/// Jobs that work on the kernel at the same time. The kernel's own network lock
/// serialises most of what they do.
pub const WORKERS: usize = 2;
/// Commands that may wait for the task.
const COMMAND_QUEUE: usize = 256;
/// Policy changes that may wait for their transaction.
const POLICY_QUEUE: usize = 1024;
/// First and longest pause after slots could not be made.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// How many slots are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// The configured limit.
    pub max_slots: u32,
    /// Ready to be acquired.
    pub ready: u32,
    /// Held by sandboxes.
    pub held: u32,
    /// Being made, cleaned or removed.
    pub busy: u32,
    /// Given up until the next start.
    pub broken: u32,
}

enum Command {
    Acquire(oneshot::Sender<Result<Handover>>),
    Release(u32, oneshot::Sender<Result<()>>),
    SetPolicy {
        index: u32,
        policy: Policy,
        done: oneshot::Sender<Result<()>>,
    },
    Status(oneshot::Sender<PoolStatus>),
    Shutdown {
        keep: Vec<u32>,
        done: oneshot::Sender<Result<()>>,
    },
}

/// A slot on its way to the caller. Comes back by itself when the caller is gone.
struct Handover {
    index: Option<u32>,
    unclaimed: mpsc::Sender<u32>,
}

impl Handover {
    fn claim(mut self) -> Option<u32> {
        self.index.take()
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            // There is room for every slot there is, and each is in at most once;
            // a closed queue means that the pool has ended.
            let _ = self.unclaimed.try_send(index);
        }
    }
}

/// A handle to the pool; clones share it.
#[derive(Debug, Clone)]
pub struct SlotPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    plan: Plan,
    owners: Arc<Owners>,
    nameservers: Vec<IpAddr>,
    /// Slots of an earlier run that nobody has claimed yet.
    adopted: Mutex<Vec<u32>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl SlotPool {
    /// Takes over this host's sandbox network: chooses the address ranges, loads the
    /// host's rules in one transaction, adopts the slots in `adopt` with their
    /// policies and without touching what these permit, removes all others, and
    /// begins to fill the pool.
    ///
    /// Needs root (`CAP_NET_ADMIN`, `CAP_SYS_ADMIN`), `nft` and a Tokio runtime.
    pub async fn start(config: NetworkConfig, adopt: &[Adoption]) -> Result<Self> {
        let adopt = adopt.to_vec();
        let (config, host) = netns::spawn("hearth-net-start", move || {
            let host = host::set_up(&config, adopt)?;
            Ok((config, host))
        })
        .await?;
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let shared = Shared {
            commands,
            plan: host.plan,
            owners: Arc::clone(&host.owners),
            nameservers: host.nameservers.iter().copied().map(IpAddr::V4).collect(),
            adopted: Mutex::new(host.adopted.iter().map(|(index, _)| *index).collect()),
            task: Mutex::new(None),
        };
        let task = tokio::spawn(Driver::new(config, host, receiver).run());
        *lock(&shared.task) = Some(task);
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Takes a slot: at once when one is ready, else when the next one is.
    /// [`Error::Exhausted`] when none can become ready.
    pub async fn acquire(&self) -> Result<Slot> {
        let handover = self.ask(Command::Acquire).await??;
        let index = handover.claim().ok_or(Error::Closed)?;
        let uid = self.shared.owners.of(index)?;
        Ok(Slot::new(index, &self.shared.plan, uid))
    }

    /// Gives a slot back, once its VM process is gone. Completes when the slot is
    /// nobody's any more; it is cleaned in the background before anybody gets it.
    pub async fn release(&self, slot: Slot) -> Result<()> {
        self.ask(|done| Command::Release(slot.index, done)).await?
    }

    /// The slot with this index, if it lives on from an earlier run and was adopted.
    /// Each is given out once.
    #[must_use]
    pub fn adopted(&self, index: u32) -> Option<Slot> {
        let uid = self.shared.owners.of(index).ok()?;
        let mut adopted = lock(&self.shared.adopted);
        let position = adopted.iter().position(|candidate| *candidate == index)?;
        adopted.swap_remove(position);
        Some(Slot::new(index, &self.shared.plan, uid))
    }

    /// Says what a slot's guest may reach; a fresh slot has the default policy. What
    /// is open and no longer permitted ends. Connections that the host opens to the
    /// guest are not concerned.
    pub async fn set_policy(&self, slot: &Slot, policy: Policy) -> Result<()> {
        let index = slot.index;
        self.ask(|done| Command::SetPolicy {
            index,
            policy,
            done,
        })
        .await?
    }

    /// The name servers that guests are allowed to reach, for their `resolv.conf`.
    #[must_use]
    pub fn nameservers(&self) -> &[IpAddr] {
        &self.shared.nameservers
    }

    /// The addresses in use.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// How full the pool is.
    pub async fn status(&self) -> Result<PoolStatus> {
        self.ask(Command::Status).await
    }

    /// Ends the pool: removes every slot whose index is not in `keep`. With nothing
    /// to keep, the host is left as it was found. Every handle is dead after this.
    pub async fn shutdown(&self, keep: &[u32]) -> Result<()> {
        let keep = keep.to_vec();
        let outcome = self.ask(|done| Command::Shutdown { keep, done }).await?;
        let task = lock(&self.shared.task).take();
        if let Some(task) = task {
            task.await.map_err(|_| Error::WorkerDied)?;
        }
        outcome
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let command = command(sender);
        self.shared
            .commands
            .send(command)
            .await
            .map_err(|_| Error::Closed)?;
        receiver.await.map_err(|_| Error::Closed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What these mutexes guard is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
