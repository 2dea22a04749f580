//! Starting a process and seeing it through to its end.
//!
//! Each process has one task that waits for its end and one for each output
//! stream. They belong to the agent's task tracker and end with the process;
//! no client can make them end earlier.
//!
//! The end event comes after all output: when the process has exited and its
//! output streams are at their end. Children that it left behind may hold the
//! streams open; then their output still counts, as with `ssh`. Once the
//! process was killed or timed out, only what is in the pipes already is waited
//! for; the streams are then read on and thrown away, so that what survives
//! does not die of a broken pipe. When the shell of a terminal exits, what is left of its
//! session is hung up; what ignores that is not waited for.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_guest_proto::process::StartRequest;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::{Command, CommandError};
use super::input::Input;
use super::output::{Begin, Output, Reader, Source};
use super::reaper::Reaper;
use super::table::Table;
use super::{Exit, OutputStream, Process, Signal, State, logged};
use crate::cgroups::{Cgroups, Class};
use crate::settings::Settings;
use crate::sys::spawn::{Identity, Program, SpawnError, Stdio};
use crate::sys::{pipes, readiness, terminal};
use crate::telemetry::Log;
use crate::telemetry::lines::{Budget, Lines};
use crate::users::{User, UserDatabase};

/// How long the end of a process can be asked for after it ended.
pub const END_RETENTION: Duration = Duration::from_secs(30);
/// How long the terminal of an exited shell may be held open by what ignores the hang-up.
/// Nothing more can come over it.
const HANG_UP_LIMIT: Duration = Duration::from_secs(2);
/// Output is read in pieces of at most this size.
const PIPE_CHUNK: usize = 32 * 1024;
const TERMINAL_CHUNK: usize = 16 * 1024;
/// Programs of the sandbox are killed before the agent when memory runs out.
const OOM_SCORE_ADJUST: i16 = 100;
const DEFAULT_TERMINAL: terminal::Size = terminal::Size {
    columns: 80,
    rows: 24,
};

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("error starting process: {0}")]
    Spawn(#[from] SpawnError),
    #[error("cannot prepare the process: {0}")]
    Prepare(#[from] io::Error),
}

/// Starts processes and keeps the table of them.
#[derive(Debug)]
pub struct Launcher {
    pub table: Arc<Table>,
    /// Where programs are put; `None` outside a guest.
    pub cgroups: Option<Cgroups>,
    pub(crate) reaper: Arc<Reaper>,
    users: UserDatabase,
    log: Arc<Log>,
    /// What the output of all processes may take of the log.
    budget: Arc<Budget>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Our ends of a new process' streams.
struct Streams {
    input: Input,
    outputs: Vec<OutputStream>,
}

impl Launcher {
    pub fn new(
        reaper: Arc<Reaper>,
        users: UserDatabase,
        cgroups: Option<Cgroups>,
        log: Arc<Log>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            table: Arc::default(),
            cgroups,
            reaper,
            users,
            log,
            budget: Arc::default(),
            tasks,
            stop,
        }
    }

    /// Starts what `request` asks for as `user`. The process is killed at
    /// `deadline`, if there is one. The returned reader sees all its output.
    pub fn start(
        &self,
        request: StartRequest,
        user: &User,
        settings: &Settings,
        deadline: Option<Instant>,
    ) -> Result<Reader, LaunchError> {
        let config = request.process.into_option().unwrap_or_default();
        let command = Command::new(&config, user, settings)?;
        let size = request.pty.into_option().map(|pty| terminal_size(&pty));
        let identity = rustix::process::geteuid().is_root().then(|| Identity {
            uid: user.uid,
            gid: user.gid,
            groups: self.users.group_ids(user),
        });
        let (stdio, streams) = match size {
            Some(size) => self.terminal_streams(size, identity.as_ref())?,
            None => pipe_streams(request.stdin.unwrap_or(true))?,
        };
        let class = if size.is_some() {
            Class::Terminal
        } else {
            Class::Command
        };
        let program = Program {
            candidates: command.candidates,
            argv: command.argv,
            envp: command.envp,
            cwd: command.cwd,
            identity,
            stdio,
            terminal: size.is_some(),
            cgroup: self
                .cgroups
                .as_ref()
                .and_then(|cgroups| cgroups.procs(class)),
            oom_score_adjust: OOM_SCORE_ADJUST,
            niceness: 0,
        };
        let (pid, exit) = self.reaper.spawn(&program)?;
        drop(program);
        let process = Arc::new(Process {
            pid,
            exit,
            logged: logged::is_wanted(&config, settings),
            deadline,
            streams: std::sync::Mutex::new(streams.outputs),
            forgotten: std::sync::Mutex::default(),
            config,
            tag: request.tag,
            output: Output::default(),
            input: streams.input,
            state: std::sync::Mutex::new(State::Running { told_to_end: false }),
            hurry: CancellationToken::new(),
        });
        logged::start(&self.log, &process, user);
        let reader = Reader::attach(Arc::clone(&process), Begin::Kept);
        self.attend(process);
        Ok(reader)
    }

    /// Puts the process into the table and sees to it until it is forgotten.
    pub(super) fn attend(&self, process: Arc<Process>) {
        let key = self.table.insert(Arc::clone(&process));
        let streams = process.streams().clone();
        let drained: Vec<oneshot::Receiver<()>> = streams
            .into_iter()
            .map(|stream| {
                let (sender, receiver) = oneshot::channel();
                let lines = self.lines(&process, stream.source);
                let stop = self.stop.clone();
                let process = Arc::clone(&process);
                self.tasks
                    .spawn(read_output(process, stream, lines, sender, stop));
                receiver
            })
            .collect();
        let table = Arc::clone(&self.table);
        let log = Arc::clone(&self.log);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                exit = see_through(&process, drained) => {
                    if let Some(exit) = exit {
                        logged::end(&log, &process, exit);
                    }
                }
                () = stop.cancelled() => return,
            }
            let forgotten = *process.forgotten();
            let forgotten = forgotten.unwrap_or_else(Instant::now);
            tokio::select! {
                () = tokio::time::sleep_until(forgotten) => table.remove(key),
                () = stop.cancelled() => {}
            }
        });
    }

    /// Terminals are not logged: what goes over them are pictures, not lines.
    fn lines(&self, process: &Process, source: Source) -> Option<Lines> {
        if !process.logged {
            return None;
        }
        let stream = match source {
            Source::Stdout => "stdout",
            Source::Stderr => "stderr",
            Source::Terminal => return None,
        };
        let (log, budget) = (Arc::clone(&self.log), Arc::clone(&self.budget));
        Some(Lines::new(log, budget, process.pid, stream))
    }

    fn terminal_streams(
        &self,
        size: terminal::Size,
        identity: Option<&Identity>,
    ) -> io::Result<(Stdio, Streams)> {
        let group = self.users.group_id("tty");
        let owner = identity.map(|identity| (identity.uid, group));
        let (controller, end) = terminal::open(size, owner)?;
        rustix::io::ioctl_fionbio(&controller, true)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let controller = Arc::new(readiness::watch(controller, both)?);
        let stdio = Stdio {
            stdin: pipes::duplicate(&end)?,
            stdout: pipes::duplicate(&end)?,
            stderr: end,
        };
        let input = Input::Terminal(tokio::sync::Mutex::new(()), Arc::clone(&controller));
        Ok((
            stdio,
            Streams {
                input,
                outputs: vec![OutputStream {
                    source: Source::Terminal,
                    fd: controller,
                    drained: false,
                }],
            },
        ))
    }
}

fn pipe_streams(wants_input: bool) -> io::Result<(Stdio, Streams)> {
    let (stdin, input) = if wants_input {
        let (read, write) = pipes::pipe()?;
        rustix::io::ioctl_fionbio(&write, true)?;
        (read, Some(write))
    } else {
        (pipes::null()?, None)
    };
    let mut outputs = Vec::with_capacity(2);
    let mut output = |source| -> io::Result<OwnedFd> {
        let (read, write) = pipes::pipe()?;
        rustix::io::ioctl_fionbio(&read, true)?;
        outputs.push(OutputStream {
            source,
            fd: Arc::new(readiness::watch(read, Interest::READABLE)?),
            drained: false,
        });
        Ok(write)
    };
    let stdio = Stdio {
        stdin,
        stdout: output(Source::Stdout)?,
        stderr: output(Source::Stderr)?,
    };
    Ok((
        stdio,
        Streams {
            input: Input::pipe(input)?,
            outputs,
        },
    ))
}

/// A size that is missing or zero is the customary one.
pub(super) fn terminal_size(pty: &hearth_guest_proto::process::PTY) -> terminal::Size {
    let or_default = |value: u32, default: u16| match u16::try_from(value) {
        Ok(0) => default,
        Ok(value) => value,
        Err(_) => u16::MAX,
    };
    pty.size
        .as_option()
        .map_or(DEFAULT_TERMINAL, |size| terminal::Size {
            columns: or_default(size.cols, DEFAULT_TERMINAL.columns),
            rows: or_default(size.rows, DEFAULT_TERMINAL.rows),
        })
}

/// Waits for the exit, then for the output, then publishes the end. `None` when
/// that was done before, by the agent's predecessor.
async fn see_through(process: &Process, drained: Vec<oneshot::Receiver<()>>) -> Option<Exit> {
    if process.output.has_ended() {
        return None;
    }
    let mut exit = process.exit.clone();
    let wait = async {
        // An error: the sender is dropped without a value only when the agent is
        // going down.
        let exit = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| *exit);
        process.set_exited();
        // An error means that a reading task is gone: nothing will come.
        let drained = futures::future::join_all(drained);
        tokio::pin!(drained);
        if process.is_terminal() {
            process.hang_up();
            if tokio::time::timeout(HANG_UP_LIMIT, &mut drained)
                .await
                .is_ok()
            {
                return exit;
            }
            process.hurry.cancel();
        }
        drained.await;
        exit
    };
    tokio::pin!(wait);
    let exit = match process.deadline {
        None => wait.await,
        Some(deadline) => match tokio::time::timeout_at(deadline, &mut wait).await {
            Ok(exit) => exit,
            Err(_) => {
                if let Err(error) = process.signal(Signal::Kill) {
                    tracing::warn!(pid = process.pid, %error, "kill process at its deadline failed");
                }
                wait.await
            }
        },
    };
    let exit = exit.unwrap_or(Exit::Signal {
        number: libc::SIGKILL,
        core_dumped: false,
    });
    *process.forgotten() = Some(Instant::now() + END_RETENTION);
    process.set_ended();
    process.output.end(exit.event());
    Some(exit)
}

/// Reads one stream to its end. `drained` is told when no more output counts.
///
/// When the agent stops, nothing that was read is lost: it is put where the
/// agent's successor finds it.
async fn read_output(
    process: Arc<Process>,
    stream: OutputStream,
    mut lines: Option<Lines>,
    drained: oneshot::Sender<()>,
    stop: CancellationToken,
) {
    let (source, fd) = (stream.source, &stream.fd);
    let limit = if source == Source::Terminal {
        TERMINAL_CHUNK
    } else {
        PIPE_CHUNK
    };
    if !stream.drained
        && read_counted(&process, &stream, &mut lines, limit, &stop)
            .await
            .is_break()
    {
        return;
    }
    if let Some(lines) = &mut lines {
        lines.finish();
    }
    for stream in process.streams().iter_mut() {
        stream.drained |= stream.source == source;
    }
    let _ = drained.send(());
    tokio::select! {
        () = discard(fd, limit) => {}
        () = stop.cancelled() => return,
    }
    process.streams().retain(|stream| stream.source != source);
}

/// Reads while output counts; breaks when the agent stops.
async fn read_counted(
    process: &Process,
    stream: &OutputStream,
    lines: &mut Option<Lines>,
    limit: usize,
    stop: &CancellationToken,
) -> ControlFlow<()> {
    let (source, fd) = (stream.source, &stream.fd);
    loop {
        match read_now(fd, limit) {
            Ok(Some(data)) if data.is_empty() => return ControlFlow::Continue(()),
            Ok(Some(data)) => {
                if let Some(lines) = lines {
                    lines.take(&data);
                }
                tokio::select! {
                    biased;
                    () = process.output.append(source, data.clone()) => {}
                    () = stop.cancelled() => {
                        process.output.push(source, data);
                        return ControlFlow::Break(());
                    }
                }
                // Lets others run while a process writes without end.
                tokio::task::coop::consume_budget().await;
            }
            Ok(None) if process.hurry.is_cancelled() => return ControlFlow::Continue(()),
            Ok(None) => tokio::select! {
                ready = fd.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return ControlFlow::Continue(()),
                },
                () = process.hurry.cancelled() => {}
                () = stop.cancelled() => return ControlFlow::Break(()),
            },
            // A terminal whose programs are all gone reads as an I/O error.
            Err(_) => return ControlFlow::Continue(()),
        }
        if stop.is_cancelled() {
            return ControlFlow::Break(());
        }
    }
}

async fn discard(fd: &AsyncFd<OwnedFd>, limit: usize) {
    loop {
        match read_now(fd, limit) {
            Ok(Some(data)) if data.is_empty() => return,
            Ok(Some(_)) => tokio::task::coop::consume_budget().await,
            Ok(None) => match fd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            },
            Err(_) => return,
        }
    }
}

/// What can be read at once: `None` when nothing is there yet, empty at the end.
fn read_now(fd: &AsyncFd<OwnedFd>, limit: usize) -> io::Result<Option<Bytes>> {
    thread_local! {
        /// One for all processes: most reads are short, and what is kept of
        /// them is then only as long as they are.
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::default();
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(PIPE_CHUNK, 0);
        let Some(buffer) = buffer.get_mut(..limit) else {
            return Ok(None);
        };
        loop {
            match rustix::io::read(fd.get_ref(), &mut *buffer) {
                Ok(length) => return Ok(Some(Bytes::copy_from_slice(&buffer[..length]))),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    })
}
