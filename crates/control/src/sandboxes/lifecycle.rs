//! Pausing, resuming, connecting, rolling back.
//!
//! What moves a sandbox runs as a task of [`Control`]: a caller who hangs up does
//! not stop it half-way, and those who joined hear what came of it.

use super::approach::{Approach, Owner, Reached};
use super::create::placement_error;
use super::{SandboxAccess, sandbox_error, time_to_live};
use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind, code};
use crate::limits::{Reservation, Shape};
use crate::node::{NodeError, NodeSandbox, SandboxSummary, SandboxUpdate};
use crate::transitions::{Arrival, Request, State, Ticket};
use chrono::{TimeDelta, Utc};
use hearth_ids::{BuildId, SandboxId};
use hearth_store::Team;
use std::future::Future;
use std::sync::Arc;

/// How a sandbox is paused.
#[derive(Debug, Clone, Copy)]
pub struct PauseRequest {
    /// False keeps the disk alone: the next start boots.
    pub memory: bool,
    /// Refuse where the agent does not answer.
    pub require_healthy_guest: bool,
}

/// How a sandbox is made to run.
#[derive(Debug, Clone, Copy)]
pub struct ConnectRequest {
    pub timeout_seconds: i64,
    /// False boots a paused sandbox from its disk although memory was kept.
    pub memory: bool,
}

/// Access to a sandbox, and whether it had to be resumed for it.
#[derive(Debug, Clone)]
pub struct Connected {
    pub access: SandboxAccess,
    pub resumed: bool,
}

/// What came of a node's call that moves a sandbox.
pub(crate) enum Moved {
    Done(Result<Arrival, Error>),
    /// The sandbox had moved by itself: look again.
    Again(NodeError),
}

impl Moved {
    fn of(result: Result<Arrival, NodeError>, refuse: impl FnOnce(NodeError) -> Error) -> Self {
        match result {
            Ok(arrival) => Self::Done(Ok(arrival)),
            Err(error @ NodeError::InTransition(_)) => Self::Again(error),
            Err(error) => Self::Done(Err(refuse(error))),
        }
    }
}

impl Control {
    /// Runs `work` to its end whatever becomes of the caller, and tells its outcome
    /// to those who joined.
    pub(crate) async fn carry_out<F>(&self, ticket: Option<Ticket>, work: F) -> Result<Moved, Error>
    where
        F: Future<Output = Moved> + Send + 'static,
    {
        let task = self.tasks.spawn(async move {
            let moved = work.await;
            if let (Moved::Done(outcome), Some(ticket)) = (&moved, ticket) {
                ticket.finish(outcome.clone());
            }
            moved
        });
        task.await.map_err(Error::internal)
    }

    /// Stops a sandbox and keeps its state.
    ///
    /// Errors: `NotFound`; `Conflict`, paused already, being killed, or, where that
    /// was required, without a healthy guest.
    pub async fn sandbox_pause(
        self: &Arc<Self>,
        caller: &Caller,
        id: &SandboxId,
        request: PauseRequest,
    ) -> Result<(), Error> {
        self.check_pause_enabled(caller, id).await?;
        let owner = Owner::Team(caller.team_id());
        let mut approach = Approach::new(self, owner, id, Request::Pause);
        loop {
            let ticket = match approach.reach().await? {
                Reached::Joined(_) => return Ok(()),
                Reached::Go(_, ticket) => ticket,
            };
            if request.require_healthy_guest {
                self.check_guest(&self.sandbox_find(caller, id).await?)
                    .await?;
            }
            self.check_paused(&caller.team, 1).await?;
            let (control, id) = (Arc::clone(self), id.clone());
            let work = async move {
                let build = BuildId::random();
                let paused = control.node.pause(&id, build, request.memory).await;
                Moved::of(paused.map(|()| Arrival::Paused), |error| {
                    sandbox_error(&id, error)
                })
            };
            match self.carry_out(ticket, work).await? {
                Moved::Done(outcome) => return outcome.map(drop),
                Moved::Again(error) => approach.refused(error).await?,
            }
        }
    }

    async fn check_guest(&self, sandbox: &NodeSandbox) -> Result<(), Error> {
        let token = sandbox.config.envd_access_token.as_ref();
        let answered = match sandbox.address {
            Some(address) => self.agent.metrics(address, token).await.is_ok(),
            None => false,
        };
        if answered {
            return Ok(());
        }
        let id = &sandbox.config.sandbox_id;
        Err(Error::new(
            Kind::Conflict,
            format!("The agent in sandbox \"{id}\" does not answer"),
        )
        .with_code(code::GUEST_UNRESPONSIVE))
    }

    /// Gives access to a sandbox, resuming it where it is paused, and sees to it
    /// that it lives at least so many seconds from now.
    ///
    /// Errors: `NotFound`; `Conflict`, being killed; and those of placement.
    pub async fn sandbox_connect(
        self: &Arc<Self>,
        caller: &Caller,
        id: &SandboxId,
        request: ConnectRequest,
    ) -> Result<Connected, Error> {
        let time = time_to_live(request.timeout_seconds, 0, caller.team.limits)?;
        let owner = Owner::Team(caller.team_id());
        let mut approach = Approach::new(self, owner, id, Request::Connect);
        let (sandbox, resumed) = self
            .bring_up(&mut approach, &caller.team, id, time, !request.memory)
            .await?;
        Ok(Connected {
            access: self.sandbox_access(&sandbox),
            resumed,
        })
    }

    /// Continues a paused sandbox; one that runs is a conflict.
    ///
    /// Errors: `NotFound`; `Conflict`, running, being snapshotted or killed; and
    /// those of placement.
    pub async fn sandbox_resume(
        self: &Arc<Self>,
        caller: &Caller,
        id: &SandboxId,
        request: ConnectRequest,
    ) -> Result<SandboxAccess, Error> {
        let time = time_to_live(request.timeout_seconds, 0, caller.team.limits)?;
        let owner = Owner::Team(caller.team_id());
        let mut approach = Approach::new(self, owner, id, Request::Resume);
        let (sandbox, _) = self
            .bring_up(&mut approach, &caller.team, id, time, !request.memory)
            .await?;
        Ok(self.sandbox_access(&sandbox))
    }

    /// Has a sandbox run and live at least `time` from now. Answers whether it was
    /// resumed for that, by this request or by one that it joined.
    pub(crate) async fn bring_up(
        self: &Arc<Self>,
        approach: &mut Approach<'_>,
        team: &Arc<Team>,
        id: &SandboxId,
        time: TimeDelta,
        discard_memory: bool,
    ) -> Result<(NodeSandbox, bool), Error> {
        let mut resumed = false;
        loop {
            let ticket = match approach.reach().await? {
                Reached::Go(_, ticket) => ticket,
                Reached::Joined(State::Running) => {
                    resumed = true;
                    None
                }
                Reached::Joined(_) => continue,
            };
            if ticket.is_none() {
                // It runs; the time that others gave it may be too short.
                let update = SandboxUpdate {
                    end_at: Some(Utc::now() + time),
                    only_extend: true,
                    network: None,
                };
                match self.node.update(id, update).await {
                    Ok(sandbox) => return Ok((sandbox, resumed)),
                    Err(error @ NodeError::InTransition(_)) => approach.refused(error).await?,
                    Err(error) => return Err(sandbox_error(id, error)),
                }
                continue;
            }
            let (control, team, id) = (Arc::clone(self), Arc::clone(team), id.clone());
            let work = async move { control.resume(&team, &id, time, discard_memory).await };
            match self.carry_out(ticket, work).await? {
                Moved::Done(Ok(Arrival::Running(sandbox))) => return Ok((*sandbox, true)),
                Moved::Done(Ok(_)) => return Err(Error::internal("a resume led elsewhere")),
                Moved::Done(Err(error)) => return Err(error),
                Moved::Again(error) => approach.refused(error).await?,
            }
        }
    }

    /// Has the node resume a sandbox, within the team's limit.
    async fn resume(
        &self,
        team: &Team,
        id: &SandboxId,
        time: TimeDelta,
        discard_memory: bool,
    ) -> Moved {
        let reservation = self.reservations.reserve(team.id, id.clone());
        let paused = match self.check_resume(team, id, &reservation).await {
            Ok(found) => found,
            Err(error) => return Moved::Done(Err(error)),
        };
        let boots = discard_memory || paused.paused.as_ref().is_some_and(|how| !how.memory);
        let end_at = Utc::now() + time;
        let resumed = self.node.resume(id, end_at, discard_memory).await;
        Moved::of(
            resumed.map(|sandbox| Arrival::Running(Box::new(sandbox))),
            |error| match error {
                NodeError::NotFound(_) => Error::sandbox_not_found(id.as_str()),
                NodeError::Damaged(_) | NodeError::Internal(_) => Error::from_node(error),
                NodeError::Deadline if boots => boot_unconfirmed(id),
                error => placement_error(error),
            },
        )
    }

    async fn check_resume(
        &self,
        team: &Team,
        id: &SandboxId,
        reservation: &Reservation,
    ) -> Result<Arc<SandboxSummary>, Error> {
        let found = self.node.lookup(id).await;
        let found = found.map_err(super::create::placement_error)?;
        let found = found.ok_or_else(|| Error::sandbox_not_found(id.as_str()))?;
        let shape = Shape::of(found.vcpus, found.memory_mib);
        self.check_concurrency(team, reservation, shape).await?;
        Ok(found)
    }

    /// Puts a running sandbox back to one of its snapshots, or to what it was made
    /// of; it keeps its id, tokens and settings.
    ///
    /// Errors: `NotFound`, sandbox or snapshot; `Invalid`, a snapshot of another
    /// sandbox; `Conflict`.
    pub async fn sandbox_rollback(
        self: &Arc<Self>,
        caller: &Caller,
        id: &SandboxId,
        snapshot: &str,
    ) -> Result<SandboxAccess, Error> {
        self.check_pause_enabled(caller, id).await?;
        let made_from = self.sandbox_lookup(caller, id).await?.build_id;
        let reference = Self::template_parse("snapshotID", snapshot)?;
        let build = self.template_resolve(caller, &reference).await?.build.id;
        let source = self.store.snapshot_source(build).await?;
        if build != made_from && source.as_ref() != Some(id) {
            return Err(Error::invalid(
                "snapshotID",
                format_args!("\"{reference}\" is no snapshot of sandbox \"{id}\""),
            ));
        }
        let owner = Owner::Team(caller.team_id());
        let mut approach = Approach::new(self, owner, id, Request::Rollback);
        loop {
            let Reached::Go(_, ticket) = approach.reach().await? else {
                continue;
            };
            let (control, id) = (Arc::clone(self), id.clone());
            let work = async move {
                let back = control.node.rollback(&id, build).await;
                Moved::of(
                    back.map(|sandbox| Arrival::Running(Box::new(sandbox))),
                    |error| sandbox_error(&id, error),
                )
            };
            match self.carry_out(ticket, work).await? {
                Moved::Done(Ok(Arrival::Running(sandbox))) => {
                    return Ok(self.sandbox_access(&sandbox));
                }
                Moved::Done(Ok(_)) => return Err(Error::internal("a rollback led elsewhere")),
                Moved::Done(Err(error)) => return Err(error),
                Moved::Again(error) => approach.refused(error).await?,
            }
        }
    }

    /// Whose sandbox it is comes before what the configuration allows.
    pub(crate) async fn check_pause_enabled(
        &self,
        caller: &Caller,
        id: &SandboxId,
    ) -> Result<(), Error> {
        if self.config.features.pause {
            return Ok(());
        }
        self.sandbox_lookup(caller, id).await?;
        Err(Error::new(
            Kind::Unimplemented,
            "Keeping a sandbox's state is not available",
        )
        .never_retry())
    }
}

/// A boot takes longer than restoring memory, and may still come to its end.
fn boot_unconfirmed(id: &SandboxId) -> Error {
    let message = format!(
        "Sandbox \"{id}\" boots from its disk, and has not answered in time: look at its state \
         before you try again"
    );
    Error::new(Kind::Unavailable, message)
        .with_code(code::BOOT_UNCONFIRMED)
        .with_source(NodeError::Deadline)
}
