//! A VM process, known by pidfd: its end is watched once and told to many.
//!
//! One task per process waits for the pidfd to become readable, reaps the process if it is
//! our child (an adopted one is reaped by init), and publishes the reason on a `watch`
//! channel. The pidfd makes every signal and wait refer to this very process, so a reused
//! process id can never be hit.

#![expect(
    unsafe_code,
    reason = "AsyncFd cannot know that a descriptor type is well behaved"
)]

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

/// How a VM process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It exited by itself, as it does when the guest powers off.
    Exited {
        /// Exit code.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// Number of the signal.
        signal: i32,
    },
    /// It ended, but its parent was an earlier daemon, so nobody told us how.
    Unknown,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Signaled {
                signal: libc::SIGSYS,
            } => write!(f, "made a system call that its filter does not allow"),
            Self::Signaled { signal } => write!(f, "ended by signal {signal}"),
            Self::Unknown => write!(f, "ended for an unknown reason"),
        }
    }
}

/// A process under watch. Dropping it lets the process run on, unwatched.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    exit: watch::Receiver<Option<ExitReason>>,
}

impl Process {
    /// Watches the process that `pidfd` refers to. A task of this process's own reaps it
    /// when it has ended and `hold` has been dropped at its other end: until then its id
    /// stays its own. The task ends with the process or with the runtime.
    pub(crate) fn watch(
        pid: u32,
        pidfd: OwnedFd,
        hold: oneshot::Receiver<Infallible>,
    ) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` stays open and the same until it is dropped, and nothing takes
        // it out of the `AsyncFd`.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        let pidfd = Arc::new(pidfd);
        let (sender, exit) = watch::channel(None);
        let watched = Arc::clone(&pidfd);
        tokio::spawn(async move {
            let reason = match watched.readable().await {
                Ok(_) => {
                    let _ = hold.await;
                    reap(watched.get_ref())
                }
                // The runtime is shutting down; nobody is left to be told.
                Err(_) => return,
            };
            let _ = sender.send(Some(reason));
        });
        Ok(Self { pid, pidfd, exit })
    }

    /// Finds a running process by id and start time.
    pub(crate) fn find(pid: u32, start_time_ticks: u64) -> io::Result<Option<Self>> {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after the pidfd was opened: if the id was reused, this is the new process's.
        match look(pid)? {
            Some(Found { start_time, state }) if start_time == start_time_ticks => {
                if state == State::Ended {
                    // Its first thread has ended, and others may go on: a guest that
                    // took the process over can bring that about. None shall outlive it.
                    let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                    return Ok(None);
                }
            }
            _ => return Ok(None),
        }
        Self::watch(pid, pidfd, no_hold()).map(Some)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<ExitReason> {
        *self.exit.borrow()
    }

    /// Completes when the process has ended.
    pub(crate) async fn exited(&self) -> ExitReason {
        let mut exit = self.exit.clone();
        loop {
            if let Some(reason) = *exit.borrow_and_update() {
                return reason;
            }
            if exit.changed().await.is_err() {
                // The watching task is gone, so the runtime is going down.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Kills the process and waits for its end; `false` when it has not ended in time.
    pub(crate) async fn kill(&self, limit: Duration) -> io::Result<bool> {
        if self.exit().is_none() {
            match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(tokio::time::timeout(limit, self.exited()).await.is_ok())
    }
}

/// A hold that is over.
fn no_hold() -> oneshot::Receiver<Infallible> {
    oneshot::channel().1
}

/// Takes the status of an ended child; of another's child only the fact is known.
fn reap(pidfd: &OwnedFd) -> ExitReason {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitReason::Exited { code },
            (_, Some(signal)) => ExitReason::Signaled { signal },
            _ => ExitReason::Unknown,
        },
        Ok(None) | Err(_) => ExitReason::Unknown,
    }
}

/// Start time of a process in clock ticks since boot; `None` when there is none or it has
/// ended and only waits to be reaped.
pub(crate) fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let found = look(pid)?.filter(|found| found.state == State::Runs);
    Ok(found.map(|found| found.start_time))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    /// At least its first thread has ended.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    start_time: u64,
    state: State,
}

fn look(pid: u32) -> io::Result<Option<Found>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse_stat(&stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The process ended between open and read.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Id of the host's current boot.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Fields 3 and 22 of proc(5)'s `stat`. The second field is the program's name in
/// parentheses and may itself hold spaces and parentheses, so fields are counted from the
/// last one.
fn parse_stat(stat: &str) -> Option<Found> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = match fields.next()? {
        "Z" | "X" => State::Ended,
        _ => State::Runs,
    };
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Found { start_time, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[expect(
        clippy::zombie_processes,
        reason = "the watch reaps it; that is under test"
    )]
    fn spawn(script: &str) -> Process {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pidfd =
            rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        Process::watch(child.id(), pidfd, no_hold()).unwrap()
    }

    #[test]
    fn start_time_is_read_past_a_nasty_name() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        let found = |state| Found {
            start_time: 4242,
            state,
        };
        assert_eq!(parse_stat(stat), Some(found(State::Runs)));
        let ended = stat.replace(") R ", ") Z ");
        assert_eq!(parse_stat(&ended), Some(found(State::Ended)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[tokio::test]
    async fn many_waiters_learn_the_exit_code() {
        let process = spawn("exit 3");
        let (a, b) = tokio::join!(process.exited(), process.exited());
        assert_eq!(
            (a, b),
            (
                ExitReason::Exited { code: 3 },
                ExitReason::Exited { code: 3 }
            )
        );
        assert_eq!(process.exited().await, a);
        // Reaped: no zombie with this start time is left.
        assert_eq!(start_time(process.pid()).unwrap(), None);
    }

    #[tokio::test]
    async fn kill_is_idempotent() {
        let process = spawn("sleep 60");
        assert!(process.kill(Duration::from_secs(10)).await.unwrap());
        assert!(process.kill(Duration::from_secs(10)).await.unwrap());
        assert_eq!(process.exit(), Some(ExitReason::Signaled { signal: 9 }));
    }

    /// A process whose first thread has ended while another goes on looks like a
    /// zombie, and is none.
    #[tokio::test]
    async fn threads_do_not_outlive_their_process_unseen() {
        // The first thread ends alone, as after `exit(2)` of one thread.
        let script = "import ctypes, os, threading, time\n\
            threading.Thread(target=lambda: time.sleep(600)).start()\n\
            ctypes.CDLL(None).syscall(60, 0)\n";
        let Ok(mut child) = Command::new("python3").args(["-c", script]).spawn() else {
            eprintln!("skipped: needs python3");
            return;
        };
        let pid = child.id();
        let started = loop {
            let found = look(pid).unwrap().expect("it is there");
            if found.state == State::Ended {
                break found.start_time;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        assert!(threads() > 1);
        assert!(Process::find(pid, started).unwrap().is_none());
        // Would wait for ten minutes if the other thread went on.
        assert!(
            tokio::task::spawn_blocking(move || child.wait())
                .await
                .unwrap()
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_process_is_found_by_id_and_start_time_only() {
        let process = spawn("sleep 60");
        let started = start_time(process.pid()).unwrap().unwrap();
        assert!(Process::find(process.pid(), started).unwrap().is_some());
        assert!(Process::find(process.pid(), started + 1).unwrap().is_none());
        process.kill(Duration::from_secs(10)).await.unwrap();
        assert!(Process::find(process.pid(), started).unwrap().is_none());
    }
}
