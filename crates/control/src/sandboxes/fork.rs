//! Forks: the state of a running sandbox is kept once, and new sandboxes start
//! from it, each with an id and tokens of its own.
//!
//! ```text
//!  reach the sandbox ─▶ note the build ─▶ checkpoint ─▶ N creates ─▶ discard the build
//! ```
//!
//! The source stands still for the checkpoint alone. The build is nobody's: the
//! forks that run from it keep what they need of it.

use super::approach::{Approach, Owner, Reached};
use super::create::Placement;
use super::lifecycle::Moved;
use super::{SandboxAccess, sandbox_error, time_to_live};
use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::limits::Shape;
use crate::node::{NodeError, NodeSandbox, OnTimeout, SandboxConfig};
use crate::transitions::{Arrival, Request, Ticket};
use chrono::TimeDelta;
use futures::StreamExt as _;
use hearth_ids::{BuildId, SandboxId};
use hearth_store::Team;
use std::sync::Arc;
use std::time::Duration;

const MAX_FORKS: i64 = 100;
/// How many forks start at the same time.
const CONCURRENCY: usize = 8;
/// Below what an API request may take: forks that are not there by then are
/// given up, and their caller is told.
const START_LIMIT: Duration = Duration::from_secs(55);

#[derive(Debug, Clone, Copy)]
pub struct ForkRequest {
    pub timeout_seconds: i64,
    pub count: i64,
}

impl Control {
    /// Makes copies of a running sandbox. Each fork succeeds or fails by itself.
    ///
    /// Errors: `Invalid`; `NotFound`; `Conflict`, not running; `Unavailable`.
    pub async fn sandbox_fork(
        self: &Arc<Self>,
        caller: &Caller,
        id: &SandboxId,
        request: ForkRequest,
    ) -> Result<Vec<Result<SandboxAccess, Error>>, Error> {
        let time = time_to_live(request.timeout_seconds, 1, caller.team.limits)?;
        let count = fork_count(request.count, &caller.team)?;
        self.check_pause_enabled(caller, id).await?;
        let owner = Owner::Team(caller.team_id());
        let mut approach = Approach::new(self, owner, id, Request::Fork);
        loop {
            let ticket = match approach.reach().await? {
                Reached::Go(_, ticket) => ticket,
                Reached::Joined(_) => continue,
            };
            // What it was made of, variables and settings too.
            let source = self.sandbox_find(caller, id).await?;
            // Before its state is kept for nothing.
            self.check_placement(source.config.build_id)?;
            if source.config.lifecycle.on_timeout == OnTimeout::Pause {
                self.check_paused(&caller.team, count).await?;
            }
            let (control, team) = (Arc::clone(self), Arc::clone(&caller.team));
            let task = self
                .tasks
                .spawn(async move { control.fork(&team, source, ticket, time, count).await });
            match task.await.map_err(Error::internal)? {
                Ok(forks) => return Ok(forks),
                Err(NotForked::Refused(error)) => return Err(error),
                Err(NotForked::Moved(error)) => approach.refused(error).await?,
            }
        }
    }

    async fn fork(
        self: &Arc<Self>,
        team: &Arc<Team>,
        source: NodeSandbox,
        ticket: Option<Ticket>,
        time: TimeDelta,
        count: usize,
    ) -> Result<Vec<Result<SandboxAccess, Error>>, NotForked> {
        let build = BuildId::random();
        let of = source.config.sandbox_id.clone();
        let kept = self.keep(&of, build, true).await;
        if let (Some(ticket), Moved::Done(outcome)) = (ticket, &kept) {
            ticket.finish(outcome.clone());
        }
        match kept {
            Moved::Done(Ok(_)) => {}
            Moved::Done(Err(error)) => return Err(NotForked::Refused(error)),
            Moved::Again(error) => return Err(NotForked::Moved(error)),
        }
        let shape = Shape::of(source.vcpus, source.memory_mib);
        let lifecycle = crate::Lifecycle {
            initial_timeout_seconds: Some(time.num_seconds()),
            ..source.config.lifecycle
        };
        let model = SandboxConfig {
            build_id: build,
            lifecycle,
            ..source.config
        };
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        let forks = futures::stream::iter(0..count)
            .map(|_| self.fork_one(team, (&model, &of, shape), time, deadline))
            .buffered(CONCURRENCY)
            .collect()
            .await;
        self.discard_build(build);
        Ok(forks)
    }

    async fn fork_one(
        self: &Arc<Self>,
        team: &Arc<Team>,
        (model, of, shape): (&SandboxConfig, &SandboxId, Shape),
        time: TimeDelta,
        deadline: tokio::time::Instant,
    ) -> Result<SandboxAccess, Error> {
        let id = SandboxId::random();
        let config = SandboxConfig {
            envd_access_token: model
                .envd_access_token
                .as_ref()
                .map(|_| self.tokens.envd(&id)),
            traffic_access_token: model
                .traffic_access_token
                .as_ref()
                .map(|_| self.tokens.traffic(&id)),
            sandbox_id: id.clone(),
            ..model.clone()
        };
        let placement = Placement {
            team,
            time,
            config,
            shape,
            fork_of: Some(of),
        };
        let started = tokio::time::timeout_at(deadline, self.start(placement)).await;
        match started {
            Ok(Ok(sandbox)) => Ok(self.sandbox_access(&sandbox)),
            Ok(Err(failure)) => {
                if failure.outcome_unknown {
                    self.discard(id);
                }
                Err(failure.error)
            }
            Err(_) => {
                self.discard(id);
                Err(super::create::placement_error(NodeError::Deadline))
            }
        }
    }

    /// Keeps a running sandbox's state as a build, which is noted before it is
    /// made. Where it was not made, or may not have been, it is discarded.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        id: &SandboxId,
        build: BuildId,
        for_forks: bool,
    ) -> Moved {
        if let Err(error) = self.store.discard_add(build, &self.config.owner).await {
            return Moved::Done(Err(error.into()));
        }
        let kept = match for_forks {
            true => self.node.checkpoint_for_forks(id, build).await,
            false => self.node.checkpoint(id, build).await,
        };
        match kept {
            Ok(()) => Moved::Done(Ok(Arrival::Kept)),
            Err(error) => {
                self.discard_build(build);
                match error {
                    NodeError::InTransition(_) => Moved::Again(error),
                    NodeError::Exhausted(_) | NodeError::Unreachable(_) => {
                        Moved::Done(Err(Error::new(
                            Kind::Unavailable,
                            "The node cannot keep the sandbox's state",
                        )
                        .with_source(error)))
                    }
                    error => Moved::Done(Err(sandbox_error(id, error))),
                }
            }
        }
    }
}

enum NotForked {
    Refused(Error),
    /// The sandbox had moved by itself.
    Moved(NodeError),
}

fn fork_count(count: i64, team: &Team) -> Result<usize, Error> {
    let limit = team.limits.max_concurrent_sandboxes;
    if !(1..=MAX_FORKS).contains(&count) {
        return Err(Error::invalid(
            "count",
            format_args!("must be from 1 to {MAX_FORKS}, is {count}"),
        ));
    }
    if count >= i64::from(limit) {
        return Err(Error::invalid(
            "count",
            format_args!(
                "must be below the team's limit of concurrent sandboxes ({limit}), is {count}"
            ),
        ));
    }
    Ok(usize::try_from(count).unwrap_or(1))
}
