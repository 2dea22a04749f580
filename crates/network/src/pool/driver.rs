//! The task behind [`super::SlotPool`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Command, Handover, POLICY_QUEUE, RETRY_FIRST, RETRY_LONGEST, WORKERS};
use crate::config::NetworkConfig;
use crate::error::{Error, Result, chain};
use crate::host::{self, Host};
use crate::ledger::{Acquired, Ledger, NotHeld, Work};
use crate::policy::Policy;
use crate::rtnl::Rtnl;
use crate::{netns, slot};

/// What the task waits for.
enum Event {
    Command(Option<Command>),
    Unclaimed(u32),
    Finished(Job, Result<()>),
    Retry,
}

/// What a worker did.
enum Job {
    Slot(Work),
    Policy(Vec<PolicyChange>),
}

struct PolicyChange {
    index: u32,
    policy: Policy,
    /// Nobody waits for the change that a release makes.
    done: Option<oneshot::Sender<Result<()>>>,
}

pub(super) struct Driver {
    config: NetworkConfig,
    host: Host,
    ledger: Ledger,
    commands: mpsc::Receiver<Command>,
    unclaimed: mpsc::Receiver<u32>,
    unclaimed_sender: mpsc::Sender<u32>,
    waiters: VecDeque<oneshot::Sender<Result<Handover>>>,
    policy: Vec<PolicyChange>,
    policy_running: bool,
    slots_running: usize,
    jobs: JoinSet<(Job, Result<()>)>,
    /// No slot is made ahead before this instant.
    retry_at: Option<Instant>,
    failures: u32,
}

impl Driver {
    pub(super) fn new(
        config: NetworkConfig,
        host: Host,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let mut ledger = Ledger::new(config.max_slots, config.pool_size, config.idle_limit);
        for (index, policy) in &host.adopted {
            ledger.adopt(*index, !policy.is_plain());
        }
        let (unclaimed_sender, unclaimed) = mpsc::channel(config.max_slots as usize);
        Self {
            config,
            host,
            ledger,
            commands,
            unclaimed,
            unclaimed_sender,
            waiters: VecDeque::new(),
            policy: Vec::new(),
            policy_running: false,
            slots_running: 0,
            jobs: JoinSet::new(),
            retry_at: None,
            failures: 0,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.start_policy();
            self.start_slots();
            match self.next_event().await {
                Event::Command(Some(Command::Shutdown { keep, done })) => {
                    let outcome = self.shut_down(&keep).await;
                    let _ = done.send(outcome);
                    return;
                }
                Event::Command(None) => {
                    self.drain().await;
                    return;
                }
                event => self.apply(event),
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let retry_at = self.retry_at;
        tokio::select! {
            command = self.commands.recv() => Event::Command(command),
            Some(index) = self.unclaimed.recv() => Event::Unclaimed(index),
            Some(finished) = self.jobs.join_next() => match finished {
                Ok((job, outcome)) => Event::Finished(job, outcome),
                // The futures only wait for a thread; they neither panic nor are
                // they aborted.
                Err(_) => Event::Retry,
            },
            () = async {
                match retry_at {
                    Some(instant) => sleep_until(instant).await,
                    None => std::future::pending().await,
                }
            } => Event::Retry,
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Command(Some(command)) => self.command(command),
            Event::Unclaimed(index) => {
                self.ledger.hand_back(index);
                self.serve_waiters();
            }
            Event::Finished(Job::Slot(work), outcome) => {
                self.slots_running -= 1;
                self.slot_finished(work, outcome);
                self.serve_waiters();
            }
            Event::Finished(Job::Policy(changes), outcome) => {
                self.policy_running = false;
                self.policy_finished(changes, &outcome);
                self.serve_waiters();
            }
            Event::Retry => self.retry_at = None,
            Event::Command(None) => {}
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Acquire(reply) => self.acquire(reply),
            Command::Release(index, done) => {
                let outcome = match self.ledger.release(index) {
                    Ok(true) => {
                        self.push_policy(index, Policy::default(), None);
                        Ok(())
                    }
                    Ok(false) => Ok(()),
                    Err(NotHeld) => Err(Error::NotHeld { index }),
                };
                let _ = done.send(outcome);
            }
            Command::SetPolicy {
                index,
                policy,
                done,
            } => {
                if self.policy.len() >= POLICY_QUEUE {
                    let _ = done.send(Err(Error::Busy));
                } else if self.ledger.policy_asked(index, !policy.is_plain()).is_err() {
                    let _ = done.send(Err(Error::NotHeld { index }));
                } else {
                    self.push_policy(index, policy, Some(done));
                }
            }
            Command::Status(reply) => {
                let _ = reply.send(self.ledger.status());
            }
            // Handled where the loop can end.
            Command::Shutdown { done, .. } => {
                let _ = done.send(Err(Error::Closed));
            }
        }
    }

    fn acquire(&mut self, reply: oneshot::Sender<Result<Handover>>) {
        self.forget_gone_waiters();
        match self.ledger.acquire() {
            Acquired::Now(index) => self.hand_over(index, reply),
            Acquired::Later => self.waiters.push_back(reply),
            Acquired::Exhausted => self.refuse(reply),
        }
    }

    fn refuse(&self, reply: oneshot::Sender<Result<Handover>>) {
        let max_slots = self.config.max_slots;
        let _ = reply.send(Err(Error::Exhausted { max_slots }));
    }

    fn hand_over(&self, index: u32, reply: oneshot::Sender<Result<Handover>>) {
        let unclaimed = self.unclaimed_sender.clone();
        // A failed send drops the handover, which reports the slot as unclaimed.
        let _ = reply.send(Ok(Handover {
            index: Some(index),
            unclaimed,
        }));
    }

    fn serve_waiters(&mut self) {
        self.forget_gone_waiters();
        while let Some(index) = self.ledger.take_for_waiter() {
            match self.waiters.pop_front() {
                Some(reply) => self.hand_over(index, reply),
                None => self.ledger.hand_back(index),
            }
        }
        for _ in 0..self.ledger.hopeless_waiters() {
            self.ledger.waiter_left();
            if let Some(reply) = self.waiters.pop_back() {
                self.refuse(reply);
            }
        }
    }

    fn forget_gone_waiters(&mut self) {
        let before = self.waiters.len();
        self.waiters.retain(|reply| !reply.is_closed());
        for _ in self.waiters.len()..before {
            self.ledger.waiter_left();
        }
    }

    /// Puts a change into the next transaction. A release may go past the queue's
    /// limit; there are at most as many of those as slots.
    fn push_policy(
        &mut self,
        index: u32,
        policy: Policy,
        done: Option<oneshot::Sender<Result<()>>>,
    ) {
        self.policy.push(PolicyChange {
            index,
            policy,
            done,
        });
    }

    fn start_policy(&mut self) {
        if !self.policy_running && !self.policy.is_empty() {
            self.policy_running = true;
            let changes = std::mem::take(&mut self.policy);
            let wanted: Vec<_> = changes
                .iter()
                .map(|change| (change.index, change.policy.clone()))
                .collect();
            let (plan, services) = (self.host.plan, self.config.services);
            self.jobs.spawn(async move {
                let outcome = netns::spawn("hearth-net-rule", move || {
                    host::apply_policies(&plan, services, &wanted)
                })
                .await;
                (Job::Policy(changes), outcome)
            });
        }
    }

    fn start_slots(&mut self) {
        while self.slots_running < WORKERS {
            // Someone who waits deserves a try, and its error, at once.
            let may_create = self.retry_at.is_none() || !self.waiters.is_empty();
            let Some(work) = self.ledger.next_work(may_create) else {
                break;
            };
            self.slots_running += 1;
            let (plan, owners) = (self.host.plan, Arc::clone(&self.host.owners));
            self.jobs.spawn(async move {
                let outcome = netns::spawn("hearth-net-slot", move || match work {
                    Work::Create(index) => slot::create(index, &plan, owners.renew(index)?),
                    Work::Clean(index) => slot::clean(index, &plan, owners.renew(index)?),
                    Work::Destroy(index) => slot::remove(&Rtnl::open()?, index),
                })
                .await;
                (Job::Slot(work), outcome)
            });
        }
    }

    fn slot_finished(&mut self, work: Work, outcome: Result<()>) {
        match work {
            Work::Create(index) => {
                self.ledger.created(index, outcome.is_ok());
                match outcome {
                    Ok(()) => self.failures = 0,
                    Err(error) => self.creation_failed(index, error),
                }
            }
            Work::Clean(index) => {
                if let Err(error) = &outcome {
                    tracing::warn!(
                        index,
                        error = chain(error),
                        "a network slot is not reusable"
                    );
                }
                self.ledger.cleaned(index, outcome.is_ok());
            }
            Work::Destroy(index) => {
                if let Err(error) = &outcome {
                    tracing::error!(index, error = chain(error), "cannot remove a network slot");
                }
                self.ledger.destroyed(index, outcome.is_ok());
            }
        }
    }

    fn creation_failed(&mut self, index: u32, error: Error) {
        tracing::error!(index, error = chain(&error), "cannot make a network slot");
        let pause = RETRY_FIRST * 2_u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + pause.min(RETRY_LONGEST));
        self.forget_gone_waiters();
        if let Some(reply) = self.waiters.pop_front() {
            self.ledger.waiter_left();
            let _ = reply.send(Err(error));
        }
    }

    fn policy_finished(&mut self, changes: Vec<PolicyChange>, outcome: &Result<()>) {
        if let Err(error) = outcome {
            tracing::error!(error = chain(error), "cannot change network policies");
        }
        for change in changes {
            self.ledger
                .policy_done(change.index, outcome.is_ok() && change.policy.is_plain());
            if let Some(done) = change.done {
                let _ = done.send(match outcome {
                    Ok(()) => Ok(()),
                    Err(error) => Err(Error::Nft {
                        action: "change a slot's policy",
                        detail: error.to_string(),
                    }),
                });
            }
        }
    }

    /// Finishes what runs and the policy changes that were asked for; no other work
    /// on slots begins.
    async fn drain(&mut self) {
        loop {
            self.start_policy();
            match self.jobs.join_next().await {
                Some(Ok((job, outcome))) => self.apply(Event::Finished(job, outcome)),
                Some(Err(_)) => {}
                None => return,
            }
        }
    }

    async fn shut_down(&mut self, keep: &[u32]) -> Result<()> {
        self.commands.close();
        for reply in self.waiters.drain(..) {
            self.ledger.waiter_left();
            let _ = reply.send(Err(Error::Closed));
        }
        self.drain().await;
        let doomed: BTreeSet<u32> = self
            .ledger
            .existing()
            .into_iter()
            .filter(|index| !(keep.contains(index) && self.ledger.is_held(*index)))
            .collect();
        let (plan, config) = (self.host.plan, self.config.clone());
        let keep_any = keep.iter().any(|index| self.ledger.is_held(*index));
        netns::spawn("hearth-net-stop", move || {
            let rtnl = Rtnl::open()?;
            let mut failures = Vec::new();
            if let Err(error) = slot::remove_all(&rtnl, &doomed) {
                failures.push(chain(&error));
            }
            if !keep_any && let Err(error) = host::tear_down(&config, &plan) {
                failures.push(chain(&error));
            }
            if failures.is_empty() {
                Ok(())
            } else {
                Err(Error::Leftover { failures })
            }
        })
        .await
    }
}
