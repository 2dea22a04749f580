//! What one agent leaves to the next, as JSON. Descriptors are numbers that are
//! valid in the process they share.
//!
//! The next agent may be older or newer. Fields may be added with a default;
//! anything else takes a new [`FORMAT`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{OwnedFd, RawFd};

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use crate::files::watch::pollers::PollerState;
use crate::process::adopt::ProcessState;
use crate::telemetry::LogState;

pub const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    pub format: u32,
    /// How often the agent was replaced since its first start.
    pub generation: u64,
    pub settings: SettingsState,
    pub programs_frozen: bool,
    pub disk_frozen: bool,
    pub processes: Vec<ProcessState>,
    pub pollers: Vec<PollerState>,
    pub log: LogState,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SettingsState {
    pub access_token: Option<String>,
    pub system_env: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub default_user: String,
    pub default_workdir: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read or write it: {0}")]
    Io(#[from] io::Error),
    #[error("it is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("it has format {0}, not {FORMAT}")]
    Format(u32),
}

impl State {
    /// Writes it to memory.
    pub fn write(&self) -> Result<OwnedFd, StateError> {
        let fd = rustix::fs::memfd_create(c"envd-state", MemfdFlags::CLOEXEC)
            .map_err(io::Error::from)?;
        let mut file = io::BufWriter::new(File::from(fd));
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(file.into())
    }

    /// Reads it back.
    pub fn read(fd: OwnedFd) -> Result<Self, StateError> {
        let mut file = File::from(fd);
        file.rewind()?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // First alone, because all else depends on it.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let Head { format } = serde_json::from_slice(&text)?;
        if format != FORMAT {
            return Err(StateError::Format(format));
        }
        Ok(serde_json::from_slice(&text)?)
    }
}

/// A descriptor that the next agent finds open under the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inherited(pub RawFd);
