//! One sandbox on this node. [`driver`] is the task that owns it, [`ground`] the
//! builds that it stands on, [`resources`] what it holds of the host, [`setup`] how
//! that is taken and adopted, [`keep`] how its state becomes a build.
//!
//! ```text
//!  Starting ──restored, agent ready──▶ Running ──delete │ deadline │ VM ended──▶ Stopping ──▶ gone
//!      └──any step fails──▶ Stopping    │  ▲ ▲                                       ▲
//!                                       │  │ └─ kept, or failed ── Snapshotting      │
//!                                       ▼  │        (from Running)                   │
//!                      failed ◀──── Pausing └───────────────┐                        │
//!                   (Running again)     │ kept              │ agent ready            │
//!                                       ▼                   │                        │
//!                                     Paused ──resume──▶ Resuming                    │
//!                                       │  ◀──any step fails──┘                      │
//!                                       └────────────────delete──────────────────────┘
//! ```
//!
//! A rollback goes from Running to Resuming, with the build to go back to as what
//! is kept: should it fail, the sandbox is paused there.
//!
//! The driver is the only one that changes the sandbox. Others send it commands
//! through a bounded queue and read its status from a watch. It takes one command
//! after the other, so no two operations on a sandbox ever overlap.

mod blocking;
pub(crate) mod driver;
pub(crate) mod egress;
pub(crate) mod ground;
pub(crate) mod keep;
mod lifecycle;
pub(crate) mod resources;
mod seal;
pub(crate) mod setup;
pub(crate) mod volumes;

use crate::{
    error::Error,
    journal::Keeping,
    spec::{SandboxState, Status},
};
use chrono::{DateTime, Utc};
use hearth_ids::BuildId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Commands that wait for one driver at most; senders beyond that wait.
pub(crate) const QUEUE: usize = 16;

/// When a sandbox is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndAt {
    At(DateTime<Utc>),
    /// Moves the end later, never earlier.
    NotBefore(DateTime<Utc>),
}

#[derive(Debug)]
pub(crate) enum Command {
    Update {
        end_at: Option<EndAt>,
        network_json: Option<String>,
        reply: oneshot::Sender<Result<Status, Error>>,
    },
    Pause {
        keeping: Keeping,
        reply: oneshot::Sender<Result<Status, Error>>,
    },
    Resume {
        end_at: DateTime<Utc>,
        discard_memory: bool,
        reply: oneshot::Sender<Result<Status, Error>>,
    },
    Checkpoint {
        build: BuildId,
        /// It is for forks.
        fork: bool,
        reply: oneshot::Sender<Result<Status, Error>>,
    },
    Rollback {
        build: BuildId,
        reply: oneshot::Sender<Result<Status, Error>>,
    },
    /// Answered when the VM has ended, with the number of the change by which the
    /// sandbox went; every one of several callers is answered.
    Stop { reply: oneshot::Sender<u64> },
}

/// What others see of a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub status: Status,
    /// Cancelled when the sandbox stops answering: streams to it are to break. Each
    /// start has its own.
    pub closed: CancellationToken,
}

/// How others reach a sandbox's driver.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub commands: mpsc::Sender<Command>,
    pub view: watch::Receiver<View>,
}

impl Handle {
    pub(crate) fn status(&self) -> Status {
        self.view.borrow().status.clone()
    }

    pub(crate) fn state(&self) -> SandboxState {
        self.view.borrow().status.state
    }
}
