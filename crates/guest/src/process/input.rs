//! Standard input of a process: a pipe that can be closed, a terminal that
//! cannot, or nothing. Writers take turns in the order in which they came, and
//! one write is never mixed with another.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::adopt::InputState;
use crate::handover::state::Inherited;
use crate::sys::{inherit, readiness, terminal};

#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("stdin not enabled or closed")]
    Closed,
    #[error("tty assigned to process, input should be written to the pty, not the stdin")]
    IsTerminal,
    #[error("tty not assigned to process")]
    NoTerminal,
    #[error("cannot close stdin for PTY process - send Ctrl+D (0x04) instead")]
    TerminalStays,
    #[error("error writing to the process: {0}")]
    Write(#[from] io::Error),
}

/// Where input goes.
#[derive(Debug)]
pub enum Input {
    Pipe(Mutex<Option<AsyncFd<OwnedFd>>>),
    Terminal(Mutex<()>, std::sync::Arc<AsyncFd<OwnedFd>>),
}

impl Input {
    /// `pipe` is our end, non-blocking; `None` when input is not wanted.
    pub fn pipe(pipe: Option<OwnedFd>) -> io::Result<Self> {
        let pipe = pipe
            .map(|fd| readiness::watch(fd, Interest::WRITABLE))
            .transpose()?;
        Ok(Self::Pipe(Mutex::new(pipe)))
    }

    /// Where it goes, for the agent's successor. A pipe that is being written to is
    /// as good as closed: what was to be written is lost with its writer.
    pub fn state_for_successor(&self) -> io::Result<InputState> {
        let keep = |fd: &AsyncFd<OwnedFd>| inherit::bequeath(fd.get_ref().as_fd()).map(Inherited);
        match self {
            Self::Terminal(_, controller) => Ok(InputState::Terminal(keep(controller)?)),
            Self::Pipe(pipe) => match pipe.try_lock().as_deref() {
                Ok(Some(pipe)) => Ok(InputState::Pipe(keep(pipe)?)),
                Ok(None) | Err(_) => Ok(InputState::Closed),
            },
        }
    }

    pub async fn write_stdin(&self, data: &[u8]) -> Result<(), InputError> {
        match self {
            Self::Terminal(..) => Err(InputError::IsTerminal),
            Self::Pipe(pipe) => {
                let pipe = pipe.lock().await;
                let pipe = pipe.as_ref().ok_or(InputError::Closed)?;
                Ok(write_all(pipe, data).await?)
            }
        }
    }

    pub async fn write_terminal(&self, data: &[u8]) -> Result<(), InputError> {
        match self {
            Self::Pipe(_) => Err(InputError::NoTerminal),
            Self::Terminal(turn, controller) => {
                let _turn = turn.lock().await;
                Ok(write_all(controller, data).await?)
            }
        }
    }

    /// Ends a pipe; closing it twice is no error. Waits for writers.
    pub async fn close(&self) -> Result<(), InputError> {
        match self {
            Self::Terminal(..) => Err(InputError::TerminalStays),
            Self::Pipe(pipe) => {
                pipe.lock().await.take();
                Ok(())
            }
        }
    }

    /// Changes a terminal's size.
    pub fn resize(&self, size: terminal::Size) -> Result<(), InputError> {
        match self {
            Self::Pipe(_) => Err(InputError::NoTerminal),
            Self::Terminal(_, controller) => Ok(terminal::resize(controller.get_ref(), size)?),
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let written = fd
            .async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, data)?))
            .await?;
        data = data.get(written..).unwrap_or_default();
    }
    Ok(())
}
