//! Processes of the sandbox.
//!
//! A [`launch::Launcher`] starts a program and owns the tasks that live as long
//! as it: two that read its output into an [`output::Output`], one that waits
//! for its end. Readers (RPC streams) come and go without the process noticing.
//!
//! ```text
//!  running ──exit──▶ exited ──output drained──▶ ended ──30 s──▶ forgotten
//! ```
//!
//! A process that has not ended is found by pid or tag for every operation, an
//! ended one only for `Connect`, which then repeats its end event, and its last output
//! when that is asked for.
//!
//! **What ends with what.** Signals, deadlines and leaving a terminal mean a whole
//! [`session`]: the command or shell, and all that it started and that did not make a
//! session of its own. A client that goes away ends nothing.

pub mod adopt;
pub mod command;
pub mod exit;
pub mod input;
pub mod launch;
pub mod logged;
pub mod output;
pub mod reaper;
pub mod redact;
pub mod service;
pub mod session;
pub mod table;

use hearth_util::LockExt as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use hearth_guest_proto::process::ProcessConfig;
use rustix::process::Pid;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

pub use exit::Exit;
use input::Input;
use output::Output;
use reaper::ExitReceiver;

/// One started process.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    /// As it was asked for; shown in lists.
    pub config: ProcessConfig,
    pub tag: Option<String>,
    pub output: Output,
    pub input: Input,
    /// Whether the log may show its command line and output.
    logged: bool,
    state: Mutex<State>,
    /// Set when output is no longer waited for beyond what is there already.
    pub(crate) hurry: tokio_util::sync::CancellationToken,
    exit: ExitReceiver,
    /// When it is killed.
    deadline: Option<Instant>,
    /// Its output, as long as somebody may write to it.
    streams: Mutex<Vec<OutputStream>>,
    /// When nobody may ask for its end any more; set with the end.
    forgotten: Mutex<Option<Instant>>,
}

/// Our end of one output stream.
#[derive(Clone, Debug)]
struct OutputStream {
    source: output::Source,
    fd: Arc<AsyncFd<OwnedFd>>,
    /// What comes now is thrown away.
    drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The pid is ours: the process runs, or is a zombie not yet waited for.
    Running { told_to_end: bool },
    /// Waited for, but children of it still hold its output streams.
    Exited,
    /// All is over and the end event is out.
    Ended,
}

/// Signals that a client can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Kill,
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock_unpoisoned()
    }

    fn streams(&self) -> MutexGuard<'_, Vec<OutputStream>> {
        self.streams.lock_unpoisoned()
    }

    fn forgotten(&self) -> MutexGuard<'_, Option<Instant>> {
        self.forgotten.lock_unpoisoned()
    }

    /// Whether it, or children that still write to its output, are there.
    pub fn is_running(&self) -> bool {
        *self.state() != State::Ended
    }

    /// Notes that the process was waited for.
    fn set_exited(&self) {
        let mut state = self.state();
        if *state == (State::Running { told_to_end: true }) {
            self.hurry.cancel();
        }
        *state = State::Exited;
    }

    fn set_ended(&self) {
        *self.state() = State::Ended;
    }

    /// Signals the whole session. `false` when the process has ended.
    ///
    /// The lock is held over the call, so that the signal cannot reach a new
    /// process that was given the same pid.
    pub fn signal(&self, signal: Signal) -> std::io::Result<bool> {
        let mut state = self.state();
        let Some(pid) = self.leader() else {
            return Ok(false);
        };
        match *state {
            State::Ended => return Ok(false),
            State::Running { .. } => *state = State::Running { told_to_end: true },
            State::Exited => {
                self.hurry.cancel();
                if !session::is_left_by(pid) {
                    return Ok(true);
                }
            }
        }
        let number = match signal {
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        session::signal(pid, number).map(|()| true)
    }

    fn leader(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }

    fn is_terminal(&self) -> bool {
        matches!(self.input, Input::Terminal(..))
    }

    /// Tells what an exited shell left on its terminal that the terminal is gone, as the
    /// kernel tells the foreground alone.
    fn hang_up(&self) {
        // The lock, as for any signal.
        let _state = self.state();
        if let Some(pid) = self.leader().filter(|pid| session::is_left_by(*pid))
            && let Err(error) = session::signal(pid, rustix::process::Signal::HUP)
        {
            tracing::warn!(pid = self.pid, %error, "hang up terminal failed");
        }
    }
}
