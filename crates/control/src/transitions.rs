//! Ways of sandboxes from one state to another: who may begin one, who joins
//! one, who waits for its end, and who is refused.
//!
//! ```text
//!              ┌─────────────── pausing ──────────────┐
//!   running ◀──┤                                      ├──▶ paused
//!              ├─ snapshotting ─┐     resuming ◀──────┘
//!              ├─ rolling back ─┤        │
//!              └────────────────┴────────┴──▶ running        any ──▶ killing
//! ```
//!
//! The node is the truth about states, and it serialises what is done to one
//! sandbox. What this module adds is the caller's side: [`decide`] says what a
//! request does in a state; [`Transitions`] knows the ways that this process has
//! begun, so that a request for the same end takes part in its outcome. A holder
//! of a [`Ticket`] has asked the node under it; if the node moves the sandbox all
//! the same (its time may be over) it refuses, and the request looks again.

use crate::error::{Error, Kind};
use crate::node::{NodeSandbox, NodeSandboxState};
use hearth_ids::SandboxId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What a request wants of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Pause,
    /// It is to run, whether it did or not.
    Connect,
    /// It is to run, and must not have run.
    Resume,
    Snapshot,
    Fork,
    Rollback,
    /// A setting of one that runs is to change.
    Change,
}

/// What a sandbox does, as far as requests need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Running,
    Pausing,
    Paused,
    Resuming,
    Snapshotting,
    RollingBack,
    Killing,
}

/// What a request does in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It may be carried out now.
    Go,
    /// What it wants is on its way: it takes part in the outcome.
    Join,
    /// It may be carried out when the sandbox has come to rest.
    Wait,
    Refuse(Refusal),
}

/// Why a request is refused. The texts are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("doesn't exist")]
    NotFound,
    #[error("is being {0}")]
    Being(&'static str),
    #[error("is already paused")]
    AlreadyPaused,
    #[error("is already running")]
    AlreadyRunning,
    #[error("cannot be paused while in 'killing' state")]
    PauseOfKilled,
    #[error("cannot be snapshotted while in '{0}' state")]
    SnapshotWhile(&'static str),
    #[error("is not running")]
    NotRunning,
}

impl Refusal {
    pub(crate) fn error(self, id: &SandboxId) -> Error {
        match self {
            Self::NotFound => Error::sandbox_not_found(id.as_str()),
            // The contract has no quotes around this one.
            Self::AlreadyRunning => Error::new(Kind::Conflict, format!("Sandbox {id} {self}")),
            // And single ones around this one.
            Self::SnapshotWhile(_) => Error::new(Kind::Conflict, format!("Sandbox '{id}' {self}")),
            _ => Error::new(Kind::Conflict, format!("Sandbox \"{id}\" {self}")),
        }
    }
}

impl Request {
    /// The way that it begins.
    fn way(self) -> Way {
        match self {
            Self::Pause => Way::Pausing,
            Self::Connect | Self::Resume | Self::Change => Way::Resuming,
            Self::Snapshot | Self::Fork => Way::Snapshotting,
            Self::Rollback => Way::RollingBack,
        }
    }

    /// Whether carrying it out in a state leads the sandbox over another one.
    pub(crate) fn moves(self, state: State) -> bool {
        match self {
            Self::Connect => state == State::Paused,
            Self::Change => false,
            _ => true,
        }
    }

    /// What it answers where it joined a way that led here; absent where that was
    /// not what it wanted.
    pub(crate) fn satisfied(self, state: State) -> bool {
        match self {
            Self::Pause => state == State::Paused,
            Self::Resume => state == State::Running,
            _ => false,
        }
    }
}

impl From<NodeSandboxState> for State {
    fn from(state: NodeSandboxState) -> Self {
        match state {
            NodeSandboxState::Starting => Self::Starting,
            NodeSandboxState::Running => Self::Running,
            NodeSandboxState::Pausing => Self::Pausing,
            NodeSandboxState::Snapshotting => Self::Snapshotting,
            NodeSandboxState::Stopping => Self::Killing,
            NodeSandboxState::Paused => Self::Paused,
            NodeSandboxState::Resuming => Self::Resuming,
        }
    }
}

/// What a request does in a state: the whole of the policy.
pub(crate) fn decide(request: Request, state: State) -> Step {
    use Request as R;
    use Step::{Go, Join, Refuse, Wait};
    match (state, request) {
        (State::Starting, _) => Refuse(Refusal::NotFound),
        (State::Killing, R::Pause) => Refuse(Refusal::PauseOfKilled),
        // To its users it is gone already, as the edge says too.
        (State::Killing, R::Resume | R::Change) => Refuse(Refusal::NotFound),
        (State::Killing, R::Snapshot) => Refuse(Refusal::SnapshotWhile("killing")),
        (State::Killing, _) => Refuse(Refusal::Being("killed")),

        (State::Running, R::Resume) => Refuse(Refusal::AlreadyRunning),
        (State::Running, _) => Go,

        (State::Paused, R::Pause) => Refuse(Refusal::AlreadyPaused),
        (State::Paused, R::Connect | R::Resume) => Go,
        (State::Paused, R::Snapshot | R::Fork | R::Rollback) => Refuse(Refusal::NotRunning),
        (State::Paused, R::Change) => Refuse(Refusal::NotFound),

        (State::Pausing, R::Pause) => Join,
        (State::Pausing, R::Connect | R::Resume) => Wait,
        (State::Pausing, R::Snapshot) => Refuse(Refusal::SnapshotWhile("pausing")),
        (State::Pausing, _) => Refuse(Refusal::Being("paused")),

        (State::Resuming, R::Connect | R::Resume) => Join,
        (State::Resuming, _) => Wait,

        (State::Snapshotting, R::Resume | R::Change) => Refuse(Refusal::Being("snapshotted")),
        (State::Snapshotting, R::Snapshot) => Refuse(Refusal::SnapshotWhile("snapshotting")),
        (State::Snapshotting | State::RollingBack, _) => Wait,
    }
}

/// A way that this process has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pausing,
    Resuming,
    Snapshotting,
    RollingBack,
}

impl From<Way> for State {
    fn from(way: Way) -> Self {
        match way {
            Way::Pausing => Self::Pausing,
            Way::Resuming => Self::Resuming,
            Way::Snapshotting => Self::Snapshotting,
            Way::RollingBack => Self::RollingBack,
        }
    }
}

/// Where a way led.
#[derive(Debug, Clone)]
pub(crate) enum Arrival {
    Paused,
    Running(Box<NodeSandbox>),
    /// Its state was kept; it runs on.
    Kept,
}

impl Arrival {
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Paused => State::Paused,
            Self::Running(_) | Self::Kept => State::Running,
        }
    }
}

pub(crate) type Outcome = Result<Arrival, Error>;

/// The ways that this process has begun, at most one for each sandbox.
#[derive(Default)]
pub(crate) struct Transitions {
    active: Mutex<HashMap<SandboxId, Active>>,
}

/// A way as those see it who did not begin it.
#[derive(Clone)]
pub(crate) struct Active {
    way: Way,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Active {
    pub(crate) fn state(&self) -> State {
        self.way.into()
    }

    /// Waits for the end. Absent where the way was given up: whoever waited looks
    /// again.
    pub(crate) async fn ended(mut self) -> Option<Outcome> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        }
    }
}

/// The right to lead a sandbox along one way. Dropping it gives the way up.
pub(crate) struct Ticket {
    of: Arc<Transitions>,
    sandbox: SandboxId,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Transitions {
    pub(crate) fn active(&self, sandbox: &SandboxId) -> Option<Active> {
        self.lock().get(sandbox).cloned()
    }

    /// Begins the request's way, unless the sandbox is on one.
    pub(crate) fn begin(self: &Arc<Self>, sandbox: &SandboxId, request: Request) -> Option<Ticket> {
        let mut active = self.lock();
        let Entry::Vacant(entry) = active.entry(sandbox.clone()) else {
            return None;
        };
        let (sender, outcome) = watch::channel(None);
        entry.insert(Active {
            way: request.way(),
            outcome,
        });
        Some(Ticket {
            of: Arc::clone(self),
            sandbox: sandbox.clone(),
            outcome: sender,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Tells all who joined what came of it.
    pub(crate) fn finish(self, outcome: Outcome) {
        // The way ends before its outcome is told: who hears of it may begin one.
        self.of.lock().remove(&self.sandbox);
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut active = self.of.lock();
        // After `finish` the entry may be another ticket's.
        let mine = active
            .get(&self.sandbox)
            .is_some_and(|entry| entry.outcome.same_channel(&self.outcome.subscribe()));
        if mine {
            active.remove(&self.sandbox);
        }
    }
}

#[cfg(test)]
mod tests;
