//! Waiting for children, in one place.
//!
//! As PID 1 the agent inherits every orphan of the guest and must wait for all
//! of them. So one task waits for everybody and hands the status of a process
//! that was started here to its owner. Starting holds the same lock as waiting:
//! a child cannot be waited for before its owner is known.
//!
//! Outside a guest other code of the same process may have children too; then
//! only our own are waited for.

use hearth_util::LockExt as _;
use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use rustix::process::{Pid, WaitOptions, wait, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Exit;
use crate::sys::spawn::{Program, SpawnError, spawn};

/// Which children are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All, orphans included: the agent is PID 1.
    Everything,
    /// Those that were started through [`Reaper::spawn`].
    Own,
}

/// Where the end of a process appears, and stays.
pub type ExitReceiver = watch::Receiver<Option<Exit>>;

#[derive(Debug)]
pub struct Reaper {
    scope: Scope,
    owners: Mutex<HashMap<i32, watch::Sender<Option<Exit>>>>,
}

impl Reaper {
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            owners: Mutex::default(),
        }
    }

    /// Waits for a child that was there before: the agent's predecessor started it.
    pub fn adopt(&self, pid: u32) -> ExitReceiver {
        let (sender, receiver) = watch::channel(None);
        if let Ok(pid) = i32::try_from(pid) {
            let mut owners = self.owners.lock_unpoisoned();
            owners.insert(pid, sender);
        }
        receiver
    }

    /// Starts a program; the receiver gets its end.
    pub fn spawn(&self, program: &Program<'_>) -> Result<(u32, ExitReceiver), SpawnError> {
        let mut owners = self.owners.lock_unpoisoned();
        let pid = spawn(program)?;
        let (sender, receiver) = watch::channel(None);
        owners.insert(pid, sender);
        Ok((pid.unsigned_abs(), receiver))
    }

    /// Waits for children until cancelled.
    pub async fn run(&self, stop: CancellationToken) -> io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        loop {
            // First, because children may have ended before the signal was
            // listened to; signals that come together count once.
            self.collect();
            tokio::select! {
                received = children.recv() => if received.is_none() { return Ok(()) },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn collect(&self) {
        let mut owners = self.owners.lock_unpoisoned();
        match self.scope {
            Scope::Everything => {
                while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                    let Some(exit) = Exit::from_status(status) else {
                        continue;
                    };
                    if let Some(owner) = owners.remove(&pid.as_raw_nonzero().get()) {
                        owner.send_replace(Some(exit));
                    }
                }
            }
            Scope::Own => {
                let ended: Vec<(i32, Exit)> = owners
                    .keys()
                    .filter_map(|raw| {
                        let status = waitpid(Pid::from_raw(*raw), WaitOptions::NOHANG).ok()??.1;
                        Some((*raw, Exit::from_status(status)?))
                    })
                    .collect();
                for (pid, exit) in ended {
                    if let Some(owner) = owners.remove(&pid) {
                        owner.send_replace(Some(exit));
                    }
                }
            }
        }
    }
}
