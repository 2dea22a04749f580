//! The way of a request to a sandbox that may be on its way elsewhere: it waits for
//! the sandbox's changes, within a bound, until it may be carried out, takes part in
//! another's outcome, or is refused.

use crate::Control;
use crate::error::{Error, Kind, code};
use crate::fleet::Looks;
use crate::node::{NodeError, SandboxSummary};
use crate::transitions::{Refusal, Request, State, Step, Ticket, decide};
use hearth_ids::{SandboxId, TeamId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a request waits for others, below what an API request may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose sandbox is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner {
    Team(TeamId),
    /// Whoever: the visitor has shown what the sandbox itself asks for.
    Any,
}

/// A sandbox that a request has come to.
pub(crate) enum Reached {
    /// It may be carried out, under the ticket where it moves the sandbox.
    Go(Arc<SandboxSummary>, Option<Ticket>),
    /// Another request has brought about what it wants: the sandbox has come to this
    /// state.
    Joined(State),
}

/// One request on its way.
pub(crate) struct Approach<'a> {
    control: &'a Control,
    owner: Owner,
    id: &'a SandboxId,
    request: Request,
    deadline: Instant,
    looks: Looks,
    /// How the sandbox was when it was last looked at.
    seen: Option<Arc<SandboxSummary>>,
    /// It has waited for somebody else's way to the same end.
    joined: bool,
}

impl<'a> Approach<'a> {
    pub(crate) fn new(
        control: &'a Control,
        owner: Owner,
        id: &'a SandboxId,
        request: Request,
    ) -> Self {
        Self {
            control,
            owner,
            id,
            request,
            deadline: Instant::now() + PATIENCE,
            looks: Looks::default(),
            seen: None,
            joined: false,
        }
    }

    /// Comes to the sandbox. May be called again where the node refused, as the
    /// sandbox moved by itself; the bound holds for all of it.
    pub(crate) async fn reach(&mut self) -> Result<Reached, Error> {
        loop {
            if let Some(active) = self.control.transitions.active(self.id) {
                let state = active.state();
                let joins = match decide(self.request, state) {
                    Step::Refuse(refusal) => {
                        // Whose sandbox it is comes before what it does.
                        self.find().await?;
                        return Err(refusal.error(self.id));
                    }
                    step => step == Step::Join,
                };
                self.find().await?;
                let Ok(ended) = timeout_at(self.deadline, active.ended()).await else {
                    return Err(self.impatient(state));
                };
                match ended {
                    Some(outcome) if joins => {
                        return outcome.map(|arrival| Reached::Joined(arrival.state()));
                    }
                    _ => continue,
                }
            }
            let sandbox = self.find().await?;
            let state = State::from(sandbox.state);
            match decide(self.request, state) {
                Step::Go if !self.request.moves(state) => {
                    return Ok(Reached::Go(sandbox, None));
                }
                Step::Go => {
                    if let Some(reached) = self.begin().await? {
                        return Ok(reached);
                    }
                }
                step @ (Step::Join | Step::Wait) => {
                    self.joined |= step == Step::Join;
                    self.pause(&sandbox, state).await?;
                }
                Step::Refuse(_) if self.joined && self.request.satisfied(state) => {
                    return Ok(Reached::Joined(state));
                }
                Step::Refuse(refusal) => return Err(refusal.error(self.id)),
            }
        }
    }

    /// Takes the ticket and looks once more: what was seen before it may be past.
    async fn begin(&mut self) -> Result<Option<Reached>, Error> {
        let Some(ticket) = self.control.transitions.begin(self.id, self.request) else {
            return Ok(None);
        };
        let sandbox = self.find().await?;
        let state = State::from(sandbox.state);
        let still = decide(self.request, state) == Step::Go && self.request.moves(state);
        Ok(still.then(|| Reached::Go(sandbox, Some(ticket))))
    }

    async fn find(&mut self) -> Result<Arc<SandboxSummary>, Error> {
        let found = self.control.node.lookup(self.id).await;
        let found = found
            .map_err(Error::from_node)?
            .filter(|sandbox| self.owns(sandbox))
            .ok_or_else(|| Refusal::NotFound.error(self.id))?;
        self.seen = Some(Arc::clone(&found));
        Ok(found)
    }

    fn owns(&self, sandbox: &SandboxSummary) -> bool {
        match self.owner {
            Owner::Team(team) => sandbox.team_id == team,
            Owner::Any => true,
        }
    }

    /// Waits until the sandbox has changed.
    async fn pause(&mut self, seen: &SandboxSummary, state: State) -> Result<(), Error> {
        let (looks, deadline) = (&mut self.looks, self.deadline);
        match self.control.node.changed(seen, looks, deadline).await {
            true => Ok(()),
            false => Err(self.impatient(state)),
        }
    }

    /// The node refused what it was asked, for the sandbox has moved by itself: waits
    /// for the news of that.
    pub(crate) async fn refused(&mut self, error: NodeError) -> Result<(), Error> {
        let Some(seen) = &self.seen else {
            return Err(Error::from_node(error));
        };
        let (looks, deadline) = (&mut self.looks, self.deadline);
        match self.control.node.moved(seen, looks, deadline).await {
            true => Ok(()),
            false => Err(Error::from_node(error)),
        }
    }

    fn impatient(&self, state: State) -> Error {
        let word = match state {
            State::Pausing => "paused",
            State::Resuming => "resumed",
            State::Snapshotting => "snapshotted",
            State::RollingBack => "rolled back",
            State::Killing => "killed",
            State::Starting | State::Running | State::Paused => "changed",
        };
        let error = Error::new(
            Kind::Conflict,
            format!("Sandbox \"{}\" is being {word}", self.id),
        );
        match state {
            State::Resuming => error.with_code(code::START_IN_FLIGHT),
            _ => error,
        }
    }
}
