//! Processes that pass from one agent to the next: see [`crate::handover`].

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_guest_proto::process::ProcessConfig;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::input::Input;
use super::launch::Launcher;
use super::output::{Output, OutputState, Source};
use super::{Exit, OutputStream, Process, State};
use crate::handover::state::Inherited;
use crate::sys::{inherit, readiness};

/// What one process leaves to the agent's successor.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProcessState {
    pid: u32,
    config: ProcessConfig,
    tag: Option<String>,
    /// An older agent logged every process.
    #[serde(default = "yes")]
    logged: bool,
    /// Once it was waited for.
    exit: Option<Exit>,
    ended: bool,
    told_to_end: bool,
    hurry: bool,
    /// Time left until it is killed.
    deadline: Option<Duration>,
    /// Time left until its end is forgotten.
    forgotten: Option<Duration>,
    input: InputState,
    streams: Vec<StreamState>,
    output: OutputState,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputState {
    Closed,
    Pipe(Inherited),
    Terminal(Inherited),
}

#[derive(Debug, Serialize, Deserialize)]
struct StreamState {
    source: Source,
    /// Absent for a terminal, whose input it is too.
    fd: Option<Inherited>,
    drained: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("a descriptor was not inherited: {0}")]
    Descriptor(#[from] io::Error),
    #[error("its output is malformed")]
    Output,
}

impl Process {
    /// Everything of it. Nothing may read from it or write to it any more.
    pub fn state_for_successor(&self) -> io::Result<ProcessState> {
        let now = Instant::now();
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let state = *self.state();
        let input = self.input.state_for_successor()?;
        let streams = self
            .streams()
            .iter()
            .map(|stream| {
                let is_terminal = stream.source == Source::Terminal;
                let keep = || inherit::bequeath(stream.fd.get_ref().as_fd()).map(Inherited);
                Ok(StreamState {
                    source: stream.source,
                    fd: (!is_terminal).then(keep).transpose()?,
                    drained: stream.drained,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(ProcessState {
            pid: self.pid,
            config: self.config.clone(),
            tag: self.tag.clone(),
            logged: self.logged,
            exit: *self.exit.borrow(),
            ended: state == State::Ended,
            told_to_end: state == State::Running { told_to_end: true },
            hurry: self.hurry.is_cancelled(),
            deadline: left(self.deadline),
            forgotten: left(*self.forgotten()),
            input,
            streams,
            output: self.output.state(),
        })
    }
}

impl Launcher {
    /// Goes on with a process of the predecessor.
    pub fn adopt(&self, state: ProcessState) -> Result<(), AdoptError> {
        let now = Instant::now();
        let at = |left: Option<Duration>| left.and_then(|left| now.checked_add(left));
        let (input, terminal) = adopt_input(state.input)?;
        let mut streams = Vec::with_capacity(state.streams.len());
        for stream in state.streams {
            let fd = match (stream.fd, &terminal) {
                (Some(Inherited(number)), _) => {
                    let fd = inherit::adopt(number)?;
                    Arc::new(readiness::watch(fd, Interest::READABLE)?)
                }
                (None, Some(terminal)) => Arc::clone(terminal),
                (None, None) => continue,
            };
            streams.push(OutputStream {
                source: stream.source,
                fd,
                drained: stream.drained,
            });
        }
        let output = Output::restore(state.output).ok_or(AdoptError::Output)?;
        let exit = match state.exit {
            Some(exit) => watch::channel(Some(exit)).1,
            None => self.reaper.adopt(state.pid),
        };
        if let (true, Some(exit)) = (state.ended, state.exit) {
            output.end(exit.event());
        }
        let hurry = CancellationToken::new();
        if state.hurry {
            hurry.cancel();
        }
        let phase = match (state.ended, state.exit) {
            (true, _) => State::Ended,
            (false, Some(_)) => State::Exited,
            (false, None) => State::Running {
                told_to_end: state.told_to_end,
            },
        };
        self.attend(Arc::new(Process {
            pid: state.pid,
            config: state.config,
            tag: state.tag,
            logged: state.logged,
            output,
            input,
            state: Mutex::new(phase),
            hurry,
            exit,
            deadline: at(state.deadline),
            streams: Mutex::new(streams),
            forgotten: Mutex::new(at(state.forgotten)),
        }));
        Ok(())
    }
}

type Terminal = Arc<AsyncFd<OwnedFd>>;

fn adopt_input(state: InputState) -> io::Result<(Input, Option<Terminal>)> {
    match state {
        InputState::Closed => Ok((Input::pipe(None)?, None)),
        InputState::Pipe(Inherited(number)) => {
            let pipe = inherit::adopt(number)?;
            Ok((Input::pipe(Some(pipe))?, None))
        }
        InputState::Terminal(Inherited(number)) => {
            let both = Interest::READABLE | Interest::WRITABLE;
            let fd = inherit::adopt(number)?;
            let controller = Arc::new(readiness::watch(fd, both)?);
            let input = Input::Terminal(tokio::sync::Mutex::new(()), Arc::clone(&controller));
            Ok((input, Some(controller)))
        }
    }
}
