//! Replacing the agent by another version of itself while programs run on.
//!
//! The new program takes over in the same process: `execve` keeps the pid, the
//! children, and every descriptor that is told to stay. What the descriptors
//! mean is written to one more, as a [`state::State`].
//!
//! ```text
//!  POST /upgrade ─▶ image in memory, checked by running it
//!        │
//!        ▼ begin
//!  no new connections; requests that run are finished, streams are ended with
//!  "unavailable" (clients connect again), for GRACE at most
//!        │
//!        ▼ nobody changes anything any more
//!  children are not waited for, pipes not read ─▶ state ─▶ execve
//! ```
//!
//! The listening socket stays open all the time: whoever connects meanwhile waits
//! in its queue. What is kept: processes with their unread and replayable output,
//! open standard input, terminals, deadlines and ends; polled watchers with their
//! events; the settings; the log. What is not: connections, so also tunnels and
//! transfers that outlast the grace.

pub mod image;
pub mod state;

use hearth_util::LockExt as _;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;

use connectrpc::ConnectError;
use tokio_util::sync::CancellationToken;

use crate::sys::{exec, inherit};

/// How long requests that run may take to finish.
pub const GRACE: Duration = Duration::from_secs(5);
/// Followed by the descriptors of the listening socket and of the state.
pub const ARGUMENT: &str = "--take-over";

/// Whether, and by what, the agent is being replaced.
#[derive(Debug, Default)]
pub struct Handover {
    begun: CancellationToken,
    image: Mutex<Option<OwnedFd>>,
}

impl Handover {
    /// Begins it. `false` when it has begun already.
    pub fn begin(&self, image: OwnedFd) -> bool {
        let mut present = self.image.lock_unpoisoned();
        if present.is_some() || self.begun.is_cancelled() {
            return false;
        }
        *present = Some(image);
        self.begun.cancel();
        true
    }

    /// Fires when streams must end.
    pub fn begun(&self) -> &CancellationToken {
        &self.begun
    }

    /// The new program, once.
    pub fn take_image(&self) -> Option<OwnedFd> {
        let mut image = self.image.lock_unpoisoned();
        image.take()
    }
}

/// What a stream tells its client when it is ended for a handover.
pub fn interrupted() -> ConnectError {
    ConnectError::unavailable("the agent is being replaced; connect again to go on")
}

/// Everything that the new program gets, ready to be executed.
#[derive(Debug)]
pub struct Successor {
    pub image: OwnedFd,
    pub listener: OwnedFd,
    pub state: OwnedFd,
}

impl Successor {
    /// Becomes the new program, or, if the kernel will not have it, the present
    /// one anew, which takes over just as well. Returns only when both fail.
    pub fn execute(self) -> io::Error {
        let prepared = [&self.listener, &self.state]
            .into_iter()
            .try_for_each(inherit::keep);
        if let Err(error) = prepared {
            return error;
        }
        let argument = |text: String| CString::new(text).unwrap_or_default();
        let arguments = [
            c"envd".to_owned(),
            argument(ARGUMENT.to_owned()),
            argument(self.listener.as_raw_fd().to_string()),
            argument(self.state.as_raw_fd().to_string()),
        ];
        let kept = kept_arguments(std::env::args().skip(1));
        let arguments: Vec<CString> = arguments
            .into_iter()
            .chain(kept.into_iter().map(argument))
            .collect();
        let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
        let environment: Vec<CString> = std::env::vars()
            .map(|(name, value)| argument(format!("{name}={value}")))
            .collect();
        let environment: Vec<_> = environment.iter().map(CString::as_c_str).collect();
        let image = argument(format!("/proc/self/fd/{}", self.image.as_raw_fd()));
        let error = exec::replace(&image, &arguments, &environment);
        tracing::error!(%error, "execute the new agent failed; the present one continues");
        exec::replace(c"/proc/self/exe", &arguments, &environment)
    }
}

/// How the agent was told to run stays the same, but for what it took over itself.
fn kept_arguments(mut arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    while let Some(text) = arguments.next() {
        if text == ARGUMENT {
            // Two descriptors follow.
            arguments.nth(1);
        } else {
            kept.push(text);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_handover_is_left_out() {
        let kept = |text: &str| kept_arguments(text.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(kept("--take-over 10 11 --no-init"), "--no-init");
        assert_eq!(
            kept("--no-init --take-over 10 11 --user-root /x"),
            "--no-init --user-root /x"
        );
    }
}
