//! What must be done by one of the processes that share a store, and by another one
//! when that dies.
//!
//! ```text
//!  start: own former notes and claims ─▶ presence ─┬─▶ every ROUND: renew presence
//!                                                  └─▶ sweep lease held? ─▶ take up what
//!                                                      the dead left: builds to discard,
//!                                                      template builds to follow
//! ```
//!
//! Each process holds a lease that says it is there. What it notes in the store is its
//! own as long as it holds that; afterwards whoever holds the lease on sweeping takes it
//! over. A process that starts with the id of an earlier one need not wait for that one's
//! lease. Nothing relies on a lease alone: a note that was taken over is missed by the
//! transaction that needs it, and a build's end is written once, whoever follows it.

use crate::error::Kind;
use crate::{Control, Error};
use hearth_ids::BuildId;
use hearth_store::LeaseName;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a process is believed to be there after it was last heard of: several
/// rounds, so that one that fails loses nothing.
const LEASE: Duration = Duration::from_secs(60);
const ROUND: Duration = Duration::from_secs(20);
/// Old events are deleted every so many rounds.
const ROUNDS_PER_PRUNE: usize = 30;

/// The template builds that tasks of this process follow.
#[derive(Default)]
pub(crate) struct Followed(Arc<Mutex<HashSet<BuildId>>>);

/// Following one; dropping it ends that.
pub(crate) struct Following {
    of: Arc<Mutex<HashSet<BuildId>>>,
    build: BuildId,
}

impl Followed {
    /// Whether a task of this process follows the build, or starts it.
    pub(crate) fn contains(&self, build: BuildId) -> bool {
        let builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        builds.contains(&build)
    }

    /// `None` where the build is followed already.
    pub(crate) fn begin(&self, build: BuildId) -> Option<Following> {
        let mut builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        builds.insert(build).then(|| Following {
            of: Arc::clone(&self.0),
            build,
        })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut builds = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        builds.remove(&self.build);
    }
}

impl Control {
    /// Takes up what an earlier process of this id left, and from then on, until
    /// [`Self::shutdown`], what other processes leave. Call it once, before serving.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn housekeeping_start(self: &Arc<Self>) -> Result<(), Error> {
        let owner = &self.config.owner;
        let presence = LeaseName::presence(owner);
        self.claim_store().await?;
        self.store.idempotency_end_leases(owner).await?;
        // Without a presence of its own, this process's notes are the earlier one's.
        self.store.lease_release(&presence, owner).await?;
        self.discard_left_over().await?;
        self.store.lease_acquire(&presence, owner, LEASE).await?;
        self.template_builds_take_up().await?;
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = control.followers_stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = control.housekeep() => {}
                () = control.keys_follow() => {}
            }
        });
        Ok(())
    }

    /// Refuses a store that another daemon uses: the builds in it are on that one's node.
    async fn claim_store(&self) -> Result<(), Error> {
        let owner = &self.config.owner;
        let daemon = LeaseName::daemon();
        if !self.config.sole || self.store.lease_acquire(&daemon, owner, LEASE).await? {
            return Ok(());
        }
        Err(Error::new(
            Kind::Conflict,
            format!(
                "another Hearth uses this database, and only one at a time can; it is free {} s \
                 after that one was killed, and at once after `hearth down`",
                LEASE.as_secs()
            ),
        ))
    }

    /// Begins to delete the builds that processes which are gone left noted.
    async fn discard_left_over(self: &Arc<Self>) -> Result<(), Error> {
        for build in self.store.discard_take_over(&self.config.owner).await? {
            self.discard_build(build);
        }
        Ok(())
    }

    async fn housekeep(self: &Arc<Self>) {
        let mut failed = false;
        for round in 0_usize.. {
            let prune = round % ROUNDS_PER_PRUNE == 0;
            match self.housekeeping_round(prune).await {
                Ok(()) => failed = false,
                // Once for a store that is away, however long it is.
                Err(error) if !failed => {
                    tracing::warn!(%error, "housekeeping in the store failed");
                    failed = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn housekeeping_round(self: &Arc<Self>, prune: bool) -> Result<(), Error> {
        let owner = &self.config.owner;
        let presence = LeaseName::presence(owner);
        self.store.lease_acquire(&presence, owner, LEASE).await?;
        self.claim_store().await?;
        let sweep = LeaseName::sweep();
        if self.store.lease_acquire(&sweep, owner, LEASE).await? {
            self.discard_left_over().await?;
            self.template_builds_take_up().await?;
            if prune {
                self.events_prune().await?;
                self.usage_settle().await?;
            }
        }
        Ok(())
    }

    /// Lets others take up at once what this process leaves, when it does nothing more.
    pub(crate) async fn leases_release(&self) {
        self.webhooks_release().await;
        self.node_leave().await;
        let owner = &self.config.owner;
        let names = [
            LeaseName::sweep(),
            LeaseName::daemon(),
            LeaseName::presence(owner),
        ];
        for name in names {
            if let Err(error) = self.store.lease_release(&name, owner).await {
                // It ends by itself.
                tracing::debug!(%error, "release of a lease failed");
            }
        }
    }
}
