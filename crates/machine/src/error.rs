//! The crate's error.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::ExitReason;

/// Why a VM could not be started, or not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The spec cannot be carried out.
    #[error("refuse the VM's description: {0}")]
    InvalidSpec(String),
    /// The engine's program is missing or unusable.
    #[error("use {}: {reason}", program.display())]
    Program {
        /// The executable.
        program: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or socket could not be used.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process could not be started or confined.
    #[error("start the VM process{}", quote(log_tail))]
    Spawn {
        /// What was wrong.
        source: hearth_confine::Error,
        /// End of what the process wrote to its log.
        log_tail: String,
    },
    /// The VM process ended while something was asked of it.
    #[error("the VM process ended ({reason}){}", quote(log_tail))]
    Ended {
        /// How it ended.
        reason: ExitReason,
        /// End of what the process wrote to its log.
        log_tail: String,
    },
    /// The VM did not answer in time.
    #[error("wait for {waited_for}: not done within {} s{}", limit.as_secs(), quote(log_tail))]
    Timeout {
        /// What was waited for.
        waited_for: &'static str,
        /// How long.
        limit: Duration,
        /// End of what the process wrote to its log.
        log_tail: String,
    },
    /// The engine refused a command.
    #[error("run the VM's command {command}: {message}{}", quote(log_tail))]
    Refused {
        /// The engine's name for the command.
        command: &'static str,
        /// What it said.
        message: String,
        /// End of what the process wrote to its log.
        log_tail: String,
    },
    /// The control connection broke or spoke nonsense.
    #[error("talk to the VM process: {0}")]
    Protocol(String),
    /// The operation needs a paused VM.
    #[error("the VM is not paused")]
    NotPaused,
    /// The engine or this VM cannot do that.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The VM of this record no longer runs.
    #[error("the VM process {pid} no longer runs")]
    Gone {
        /// Its former process id.
        pid: u32,
    },
    /// The process did not end after being killed.
    #[error("the VM process {pid} does not end")]
    Stuck {
        /// Its process id.
        pid: u32,
    },
    /// Something that the VM used could not be removed.
    #[error("clean up after the VM")]
    CleanUp(#[source] hearth_confine::Error),
}

fn quote(log_tail: &str) -> String {
    if log_tail.is_empty() {
        String::new()
    } else {
        format!("; its log ends: {log_tail}")
    }
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
