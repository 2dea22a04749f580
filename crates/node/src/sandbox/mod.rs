//! One sandbox on this node. [`driver`] is the task that owns it, [`resources`]
//! what it holds of the host, [`setup`] how that is taken and adopted.
//!
//! ```text
//!  Starting ──restored, agent ready──▶ Running ──delete │ deadline │ VM ended──▶ Stopping ──▶ gone
//!      └────────────any step fails──────────────────────────────────────────────────┘
//! ```
//!
//! The driver is the only one that changes the sandbox. Others send it commands
//! through a bounded queue and read its status from a watch.

pub(crate) mod driver;
pub(crate) mod resources;
pub(crate) mod setup;

use crate::{
    error::Error,
    spec::{SandboxState, Status},
};
use chrono::{DateTime, Utc};
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
    /// Answered when the VM has ended; every one of several callers is answered.
    Stop { reply: oneshot::Sender<()> },
}

/// How others reach a sandbox's driver.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub commands: mpsc::Sender<Command>,
    pub status: watch::Receiver<Status>,
    /// Cancelled when the sandbox stops answering: streams to it are to break.
    pub closed: CancellationToken,
}

impl Handle {
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(crate) fn state(&self) -> SandboxState {
        self.status.borrow().state
    }
}
