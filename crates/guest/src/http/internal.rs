//! Routes for the orchestrator around snapshots. They are refused to programs
//! inside the guest, whatever token these hold.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;

use super::{HttpError, Response};
use crate::Agent;
use crate::boot::{system::GUEST_ADDRESS, volumes};
use crate::sys::{disk, heap};

/// Who sent a request; in the extensions of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Freeze,
    Unfreeze,
    Collapse,
    FreezeDisk,
    ThawDisk,
}

impl Operation {
    pub fn of_path(path: &str) -> Option<Self> {
        Some(match path {
            "/freeze" => Self::Freeze,
            "/unfreeze" => Self::Unfreeze,
            "/collapse" => Self::Collapse,
            "/fsfreeze" => Self::FreezeDisk,
            "/fsthaw" => Self::ThawDisk,
            _ => return None,
        })
    }
}

/// Refuses requests that come from inside the guest.
pub fn admit(agent: &Agent, peer: Option<&Peer>) -> Result<(), HttpError> {
    if !agent.config.manage_system {
        return Ok(());
    }
    match peer.map(|peer| peer.0.ip().to_canonical()) {
        Some(IpAddr::V4(address)) if !address.is_loopback() && address != GUEST_ADDRESS => Ok(()),
        _ => Err(HttpError::new(
            StatusCode::FORBIDDEN,
            "reserved for the orchestrator",
        )),
    }
}

/// Carries an operation out; answers when it is done.
pub async fn handle(agent: &Arc<Agent>, operation: Operation) -> Result<Response, HttpError> {
    let doing = Arc::clone(agent);
    let done = tokio::task::spawn_blocking(move || carry_out(&doing, operation)).await;
    match done {
        Ok(Ok(())) => Ok(super::no_content()),
        Ok(Err(error)) => Err(HttpError::internal(format!("{operation:?}: {error}"))),
        Err(error) => Err(HttpError::internal(error.to_string())),
    }
}

/// What is frozen right now. A snapshot keeps it, so that the first `/init`
/// after a restore knows what to thaw.
#[derive(Debug, Default)]
pub struct FrozenParts {
    pub programs: AtomicBool,
    pub disk: AtomicBool,
}

/// Thaws what is frozen. Cheap when nothing is.
pub fn thaw(agent: &Agent) {
    let parts = [
        (&agent.frozen.disk, Operation::ThawDisk),
        (&agent.frozen.programs, Operation::Unfreeze),
    ];
    for (frozen, operation) in parts {
        if frozen.load(Ordering::Acquire)
            && let Err(error) = carry_out(agent, operation)
        {
            tracing::error!(%error, ?operation, "thaw the guest failed");
        }
    }
}

fn carry_out(agent: &Agent, operation: Operation) -> io::Result<()> {
    let unsupported = || io::Error::new(io::ErrorKind::Unsupported, "not in a guest");
    match operation {
        Operation::Collapse => {
            heap::trim();
            Ok(())
        }
        Operation::Freeze | Operation::Unfreeze => {
            let frozen = operation == Operation::Freeze;
            let cgroups = agent.launcher.cgroups.as_ref().ok_or_else(unsupported)?;
            // Noted first: half a freeze must be undone as well.
            agent.frozen.programs.store(true, Ordering::Release);
            cgroups.set_frozen(frozen)?;
            if frozen && agent.config.manage_system {
                // From here on nobody writes more.
                volumes::flush();
            }
            agent.frozen.programs.store(frozen, Ordering::Release);
            Ok(())
        }
        Operation::FreezeDisk | Operation::ThawDisk if agent.config.manage_system => {
            let frozen = operation == Operation::FreezeDisk;
            disk::set_frozen("/", frozen)?;
            agent.frozen.disk.store(frozen, Ordering::Release);
            Ok(())
        }
        Operation::FreezeDisk | Operation::ThawDisk => Err(unsupported()),
    }
}
