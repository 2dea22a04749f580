//! Why a VM was not started, or not given back.

use crate::{Cause, SlotHeld};
use std::{io, path::PathBuf};

/// Why a stage could not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("take a network slot")]
    Slot(#[source] hearth_network::Error),
    #[error("end what an earlier VM left in the control group")]
    Leftover(#[source] hearth_confine::Error),
    #[error("{doing} {}", path.display())]
    Io {
        /// A present-tense verb phrase, such as "make".
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("open the disk")]
    OpenDisk(#[source] hearth_block::Error),
    #[error("serve the disk")]
    ServeDisk(#[source] hearth_block::Error),
    /// The kernel does not make the disk a block device, or does not go on with it.
    #[error("make the disk a block device of the host")]
    AttachDisk(#[source] hearth_block::kernel::KernelError),
    #[error("boot the VM")]
    Boot(#[source] hearth_machine::Error),
    #[error("restore the VM")]
    Restore(#[source] hearth_machine::Error),
    /// The journal stopped the start.
    #[error("record the start of the VM")]
    Journal(#[source] Cause),
    /// The agent did not come up.
    #[error("{what}{}", after_console(.console))]
    NotReady {
        what: String,
        /// The last lines of the guest's console, where there are any.
        console: String,
    },
    /// A hang in early boot looks like this: rare, and gone with another attempt.
    #[error("the guest fell silent: nothing on its console for {seconds} s of its boot{}", after_console(.console))]
    Silent {
        seconds: u64,
        /// The last lines of the guest's console.
        console: String,
    },
    #[error("ask the agent")]
    Agent(#[source] hearth_agent_client::Error),
    /// The VM process ended by itself.
    #[error("the VM ended: {why}{}", after_console(.console))]
    Ended {
        why: String,
        /// The last lines of the guest's console, where there are any.
        console: String,
    },
    #[error("a worker task ended early")]
    Task(#[source] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// How an error's text goes on with the last lines of a guest's console; empty without any.
#[must_use]
pub fn after_console(console: &str) -> String {
    if console.is_empty() {
        String::new()
    } else {
        format!("; the guest's console ends:\n{console}")
    }
}

/// What a VM held is not given back entirely.
#[derive(Debug, thiserror::Error)]
pub enum NotReleased {
    /// Something of the VM runs on: its slot is for nobody else, and can be released
    /// again.
    #[error("remove the control group")]
    Occupied {
        held: Box<SlotHeld>,
        source: hearth_confine::Error,
    },
    #[error("give back the network slot")]
    Slot(#[source] hearth_network::Error),
    #[error("remove the run directory")]
    RunDir(#[source] io::Error),
}
