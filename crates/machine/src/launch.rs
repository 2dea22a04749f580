//! The start of a VM process, as it is for every engine.
//!
//! ```text
//!   Request ──check──▶ Prepared ──start──▶ Supervised ──▶ the engine's machine
//!            (everything open, nothing runs)   └──undo──▶ as before
//! ```
//!
//! What a stage made is taken away when it is dropped or undone, so that a failed start
//! leaves nothing but logs. How the program is told what to do, and asked how it is, is
//! each engine's own.

mod files;
mod request;

use std::convert::Infallible;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hearth_confine::{Confinement, Joining, Program};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::process::{self, Process};
use crate::{Error, Machine, MachineRecord};

pub(crate) use files::{Made, create_log, listen, log_tail, open_public, remove};
pub(crate) use request::Request;

/// How long a killed process may take to end.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Time for a dead process's end to be noticed after its socket closed.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(2);

/// Everything is open, nothing runs yet. Removes what it made when dropped.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) program: Program,
    pub(crate) confinement: Option<Confinement>,
    pub(crate) record: MachineRecord,
    pub(crate) made: Made,
    /// Whether the process joins its control group before it runs, so that what it reads
    /// into the guest's memory counts; else it joins while the program starts.
    pub(crate) join_first: bool,
    /// Lines of the log that say nothing.
    pub(crate) harmless: &'static [&'static str],
}

/// A VM process that is watched.
#[derive(Debug)]
pub(crate) struct Supervised {
    pub(crate) process: Process,
    pub(crate) record: MachineRecord,
    /// When the process was about to be started, or was found.
    pub(crate) since: Instant,
    /// What the start made; taken away if it fails.
    made: Made,
    /// Moves the process into its control group, while the program starts.
    joining: Option<JoinHandle<Result<(), hearth_confine::Error>>>,
    harmless: &'static [&'static str],
}

/// Prepares and runs, off the async threads where it blocks.
pub(crate) async fn start<T: Send + 'static>(
    prepare: impl FnOnce() -> Result<(Prepared, T), Error> + Send + 'static,
) -> Result<(Supervised, T), Error> {
    let spawned = tokio::task::spawn_blocking(move || {
        let (prepared, own) = prepare()?;
        Ok((prepared.spawn()?, own))
    });
    let (spawned, own) = spawned.await.map_err(interrupted)??;
    let Spawned {
        pidfd,
        joining,
        record,
        made,
        since,
        harmless,
    } = spawned;
    let (hold, held) = oneshot::channel::<Infallible>();
    let joining = tokio::task::spawn_blocking(move || {
        let joined = joining.map_or(Ok(()), Joining::join);
        drop(hold);
        joined
    });
    let process = Process::watch(record.pid, pidfd, held)
        .map_err(Error::io("watch the process of", &record.log))?;
    let supervised = Supervised {
        process,
        record,
        since,
        made,
        joining: Some(joining),
        harmless,
    };
    Ok((supervised, own))
}

fn interrupted(error: tokio::task::JoinError) -> Error {
    Error::Protocol(format!("the start was interrupted: {error}"))
}

/// Just started, not yet watched.
struct Spawned {
    pidfd: OwnedFd,
    joining: Option<Joining>,
    record: MachineRecord,
    made: Made,
    since: Instant,
    harmless: &'static [&'static str],
}

impl Prepared {
    fn spawn(self) -> Result<Spawned, Error> {
        let Self {
            program,
            confinement,
            mut record,
            made,
            join_first,
            harmless,
        } = self;
        let since = Instant::now();
        let (spawned, joining) = if join_first {
            program
                .spawn(confinement.as_ref())
                .map(|spawned| (spawned, None))
        } else {
            let started = program.spawn_joining(confinement.as_ref());
            started.map(|(spawned, joining)| (spawned, Some(joining)))
        }
        .map_err(|source| Error::Spawn {
            source,
            log_tail: log_tail(&record.log, harmless),
        })?;
        record.pid = spawned.pid;
        // A process that has already ended has no start time; its end will be noticed.
        record.start_time_ticks = process::start_time(spawned.pid)
            .ok()
            .flatten()
            .unwrap_or_default();
        Ok(Spawned {
            pidfd: spawned.pidfd,
            joining,
            record,
            made,
            since,
            harmless,
        })
    }
}

impl Supervised {
    /// The process of a VM that an earlier daemon started.
    ///
    /// # Errors
    /// [`Error::Gone`] when it no longer runs; [`Error::Unsupported`] when it is another
    /// engine's.
    pub(crate) fn adopt(
        record: MachineRecord,
        engine: &str,
        harmless: &'static [&'static str],
    ) -> Result<Self, Error> {
        if record.engine != engine {
            return Err(Error::Unsupported("this VM belongs to another engine"));
        }
        let gone = Error::Gone { pid: record.pid };
        if record.boot_id != process::boot_id() {
            return Err(gone);
        }
        let process = Process::find(record.pid, record.start_time_ticks)
            .map_err(Error::io("look for the process of", &record.log))?
            .ok_or(gone)?;
        Ok(Self {
            process,
            record,
            since: Instant::now(),
            made: Made::default(),
            joining: None,
            harmless,
        })
    }

    /// Waits until the process is in its control group, before any guest code runs.
    pub(crate) async fn limited(&mut self) -> Result<(), Error> {
        let Some(joining) = self.joining.take() else {
            return Ok(());
        };
        let joined = joining.await.map_err(interrupted)?;
        joined.map_err(|source| Error::Spawn {
            source,
            log_tail: self.log_tail(),
        })
    }

    /// Waits for `work`, for the end of the process, or for `limit`.
    pub(crate) async fn wait<T>(
        &self,
        waited_for: &'static str,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            value = work => Ok(value),
            reason = self.process.exited() => {
                Err(Error::Ended { reason, log_tail: self.log_tail() })
            }
            () = tokio::time::sleep(limit) => Err(self.timeout(waited_for, limit)),
        }
    }

    /// The error for a command that is not answered in time.
    pub(crate) fn timeout(&self, waited_for: &'static str, limit: Duration) -> Error {
        Error::Timeout {
            waited_for,
            limit,
            log_tail: self.log_tail(),
        }
    }

    /// The error for a command that was refused.
    pub(crate) fn refused(&self, command: &'static str, message: String) -> Error {
        Error::Refused {
            command,
            message,
            log_tail: self.log_tail(),
        }
    }

    /// The error for a control connection that closed: the end of the process, which is
    /// noticed a moment later, or `otherwise`.
    pub(crate) async fn closed(&self, otherwise: String) -> Error {
        match tokio::time::timeout(END_LIMIT, self.process.exited()).await {
            Ok(reason) => Error::Ended {
                reason,
                log_tail: self.log_tail(),
            },
            Err(_) => Error::Protocol(otherwise),
        }
    }

    /// An error for a command after whose failure the program exits: waits for what it
    /// says.
    pub(crate) async fn last_words(&self, command: &'static str, message: &str) -> Error {
        // When it does not exit, its log has all there is.
        let _ = tokio::time::timeout(END_LIMIT, self.process.exited()).await;
        self.refused(command, message.to_owned())
    }

    fn log_tail(&self) -> String {
        log_tail(&self.record.log, self.harmless)
    }

    /// The start went well: what it made is the VM's.
    pub(crate) fn keep(&mut self) {
        std::mem::take(&mut self.made).keep();
    }

    /// Kills the process and removes everything that the start made.
    pub(crate) async fn undo(self) {
        let record = &self.record;
        match self.process.kill(KILL_LIMIT).await {
            Ok(true) => {}
            Ok(false) => tracing::error!(pid = record.pid, "a VM process does not end"),
            Err(error) => tracing::error!(pid = record.pid, %error, "killing a VM process failed"),
        }
        if let Err(error) = remove_cgroup(record).await {
            tracing::error!(pid = record.pid, %error, "removing a control group failed");
        }
    }

    /// Kills the process, waits for its end and removes its socket and control group.
    ///
    /// # Errors
    /// When it does not end, or the group cannot be removed.
    pub(crate) async fn stop(&self) -> Result<(), Error> {
        let record = &self.record;
        let ended = self.process.kill(KILL_LIMIT).await;
        if !ended.map_err(Error::io("kill", &record.log))? {
            return Err(Error::Stuck { pid: record.pid });
        }
        remove(&record.control_socket);
        remove_cgroup(record).await.map_err(Error::CleanUp)
    }
}

/// Removes the VM's control group, if it has one.
async fn remove_cgroup(record: &MachineRecord) -> Result<(), hearth_confine::Error> {
    let Some(name) = record.cgroup_name.clone() else {
        return Ok(());
    };
    match tokio::task::spawn_blocking(move || hearth_confine::remove_cgroup(&name)).await {
        Ok(result) => result,
        // Only when the runtime goes down; who uses the group's name next ends what it holds.
        Err(_) => Ok(()),
    }
}

/// Runs a start to its end even when the caller goes away; then stops what it made, so
/// that no VM is ever without an owner.
pub(crate) async fn owned<M: Machine + 'static>(
    start: impl Future<Output = Result<M, Error>> + Send + 'static,
) -> Result<Box<dyn Machine>, Error> {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(Ok(unwanted)) = sender.send(start.await)
            && let Err(error) = unwanted.stop().await
        {
            tracing::error!(pid = unwanted.pid(), %error, "stopping a VM nobody wants failed");
        }
    });
    match receiver.await {
        Ok(result) => result.map(|machine| Box::new(machine) as Box<dyn Machine>),
        Err(_) => Err(Error::Protocol(
            "the task that starts the VM ended early".to_owned(),
        )),
    }
}
