//! A running kernel: its process and the three sockets to it.
//!
//! The kernel leads a process group of its own, so that an interrupt reaches what
//! it runs and an end takes its children along. Its own stdout and stderr (what
//! it says beside the protocol) are kept to the last few kilobytes, to explain a
//! start that fails.

use crate::{
    connection::{self, Connection, Ports},
    kernelspec::{Interrupt, KernelSpec},
    message::{Incoming, Signer},
    zmtp::{self, SocketType},
};
use hearth_util::LockExt as _;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::{Instant, sleep, timeout, timeout_at},
};

/// How long a kernel may take until it answers; emulated processors are slow.
const START_LIMIT: Duration = Duration::from_secs(300);
/// Between two tries to connect to a kernel that does not listen yet.
const CONNECT_RETRY: Duration = Duration::from_millis(50);
/// How long to wait for an answer before the question is put again: a subscription
/// takes effect only some time after it was sent.
const GREET_RETRY: Duration = Duration::from_millis(500);
/// How long a kernel may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(2);
/// How readily the system ends a kernel when memory runs out; 0 is usual.
const OOM_SCORE: &str = "500";
/// What is kept of its own output, in bytes.
const MAX_TAIL_BYTES: usize = 8 << 10;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("run {program}")]
    Spawn { program: String, source: io::Error },
    #[error("prepare its connection")]
    Connection(#[source] io::Error),
    #[error("it ended while starting ({status}){}", after(.said))]
    Ended { status: ExitStatus, said: String },
    #[error("it did not answer within {} s{}", START_LIMIT.as_secs(), after(.said))]
    Silent { said: String },
}

fn after(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!("; it said: {said}")
    }
}

#[derive(Debug)]
pub(crate) struct Kernel {
    child: Child,
    group: Pid,
    signer: Signer,
    shell: (zmtp::Sender, zmtp::Receiver),
    control: (zmtp::Sender, zmtp::Receiver),
    iopub: zmtp::Receiver,
    /// Alive while the subscription is.
    _subscription: zmtp::Sender,
    interrupt: Interrupt,
    _connection: Connection,
    tail: Tail,
}

/// Where something that happened came from.
#[derive(Debug)]
pub(crate) enum Event {
    /// On the channel that all clients read: output and states.
    Published(Incoming),
    /// The answer to a request.
    Reply(Incoming),
    /// The process ended, or hung up, which it does not survive.
    Ended(String),
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Signer")
    }
}

impl Kernel {
    /// Starts a kernel and waits until it answers.
    pub(crate) async fn start(
        spec: &KernelSpec,
        cwd: &Path,
        env: &BTreeMap<String, String>,
        run_dir: &Path,
    ) -> Result<Self, StartError> {
        let connection = Connection::create(run_dir).map_err(StartError::Connection)?;
        let (mut child, group) = spawn(spec, cwd, env, &connection)?;
        let tail = Tail::default();
        if let Some(stdout) = child.stdout.take() {
            tail.follow(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            tail.follow(stderr);
        }
        let mut guard = EndGroup(Some(group));
        let deadline = Instant::now() + START_LIMIT;
        let signer = Signer::new(&connection.key);
        let sockets = tokio::select! {
            sockets = timeout_at(deadline, connect(connection.ports)) => sockets,
            status = child.wait() => return Err(ended(status, &tail).await),
        };
        let Ok((shell, control, (subscription, iopub))) = sockets else {
            return Err(StartError::Silent { said: tail.text() });
        };
        let mut kernel = Self {
            child,
            group,
            signer,
            shell,
            control,
            iopub,
            _subscription: subscription,
            interrupt: spec.interrupt,
            _connection: connection,
            tail,
        };
        match timeout_at(deadline, kernel.greet()).await {
            Ok(Ok(())) => {
                guard.0 = None;
                Ok(kernel)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Silent {
                said: kernel.tail.text(),
            }),
        }
    }

    /// Asks who it is until it has answered on both channels.
    async fn greet(&mut self) -> Result<(), StartError> {
        let (mut answered, mut published) = (false, false);
        loop {
            // A failed send shows as an end below.
            let _ = self.request("kernel_info_request", &json!({})).await;
            let again = Instant::now() + GREET_RETRY;
            while let Ok(event) = timeout_at(again, self.event()).await {
                match event {
                    Event::Published(_) => published = true,
                    Event::Reply(_) => answered = true,
                    Event::Ended(_) => return Err(ended(self.child.wait().await, &self.tail).await),
                }
                if answered && published {
                    return Ok(());
                }
            }
        }
    }

    /// Sends a request on the shell channel and returns its id.
    pub(crate) async fn request(&mut self, kind: &str, content: &Value) -> io::Result<String> {
        let (id, frames) = self.signer.request(kind, content);
        self.shell.0.send(&frames).await?;
        Ok(id)
    }

    /// Asks for an execution and returns its id.
    pub(crate) async fn execute(
        &mut self,
        metadata: &Value,
        content: &Value,
    ) -> io::Result<String> {
        let (id, frames) = self
            .signer
            .request_with("execute_request", metadata, content);
        self.shell.0.send(&frames).await?;
        Ok(id)
    }

    /// The next thing that the kernel does; cancel-safe. Messages that are not
    /// properly signed are logged and skipped.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            let (message, published) = tokio::select! {
                // What was published before an answer belongs before it.
                biased;
                message = self.iopub.receive() => (message, true),
                message = self.shell.1.receive() => (message, false),
                message = self.control.1.receive() => match message {
                    Ok(_) => continue,
                    Err(error) => (Err(error), false),
                },
                status = self.child.wait() => return Event::Ended(describe(status)),
            };
            match message.map(|frames| self.signer.parse(&frames)) {
                Ok(Ok(incoming)) if published => return Event::Published(incoming),
                Ok(Ok(incoming)) => return Event::Reply(incoming),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "parse kernel message failed; skipping it")
                }
                Err(error) => {
                    // Usually it is just dying; its status says more than that.
                    return match timeout(END_LIMIT, self.child.wait()).await {
                        Ok(status) => Event::Ended(describe(status)),
                        Err(_) => Event::Ended(format!("it hung up: {error}")),
                    };
                }
            }
        }
    }

    /// Asks it to stop what it runs.
    pub(crate) async fn interrupt(&mut self) {
        match self.interrupt {
            Interrupt::Signal => {
                if let Err(error) = rustix::process::kill_process_group(self.group, Signal::INT) {
                    tracing::warn!(%error, "interrupt kernel failed");
                }
            }
            Interrupt::Message => {
                let (_, frames) = self.signer.request("interrupt_request", &json!({}));
                if let Err(error) = self.control.0.send(&frames).await {
                    tracing::warn!(%error, "send interrupt request to kernel failed");
                }
            }
        }
    }

    /// Ends it and everything in its process group.
    pub(crate) async fn end(mut self) {
        let (_, frames) = self
            .signer
            .request("shutdown_request", &json!({"restart": false}));
        let _ = self.control.0.send(&frames).await;
        if timeout(END_LIMIT, self.child.wait()).await.is_err() {
            tracing::info!(
                group = self.group.as_raw_nonzero(),
                "kernel ignored its shutdown request; killing it"
            );
        }
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait().await;
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // Also after an orderly end: children that it left. While `child` has not
        // been waited for, the group's number cannot belong to anyone else; after
        // that the kernel's children keep it, or nobody has it.
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
    }
}

/// Ends the group of a kernel that is given up while it starts.
struct EndGroup(Option<Pid>);

impl Drop for EndGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

fn spawn(
    spec: &KernelSpec,
    cwd: &Path,
    env: &BTreeMap<String, String>,
    connection: &Connection,
) -> Result<(Child, Pid), StartError> {
    let file = connection.path.display().to_string();
    let resources = spec.directory.display().to_string();
    let argv: Vec<String> = spec
        .argv
        .iter()
        .map(|arg| {
            arg.replace("{connection_file}", &file)
                .replace("{resource_dir}", &resources)
        })
        .collect();
    let program = argv.first().cloned().unwrap_or_default();
    let mut command = Command::new(&program);
    command
        .args(&argv[1..])
        .envs(&spec.env)
        .envs(env)
        .current_dir(cwd)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let failed = |source| StartError::Spawn {
        program: program.clone(),
        source,
    };
    let child = command.spawn().map_err(failed)?;
    let group = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    // When memory runs out, the user's code goes first and this server stays to
    // tell. Where that is forbidden, the kernel's own choice has to do.
    let score = format!("/proc/{}/oom_score_adj", group.as_raw_nonzero());
    let _ = std::fs::write(score, OOM_SCORE);
    Ok((child, group))
}

type Socket = (zmtp::Sender, zmtp::Receiver);

async fn connect(ports: Ports) -> (Socket, Socket, Socket) {
    let retried = async |port, kind| {
        loop {
            match zmtp::connect(connection::local(port), kind).await {
                Ok(socket) => return socket,
                Err(_) => sleep(CONNECT_RETRY).await,
            }
        }
    };
    (
        retried(ports.shell, SocketType::Dealer).await,
        retried(ports.control, SocketType::Dealer).await,
        retried(ports.iopub, SocketType::Subscriber).await,
    )
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it exited with status {code}"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it ended".to_owned(),
        },
        Err(error) => format!("it cannot be waited for: {error}"),
    }
}

async fn ended(status: io::Result<ExitStatus>, tail: &Tail) -> StartError {
    match status {
        Ok(status) => {
            // Its last words may still be in the pipe.
            sleep(CONNECT_RETRY).await;
            StartError::Ended {
                status,
                said: tail.text(),
            }
        }
        Err(error) => StartError::Connection(error),
    }
}

/// The last of what a kernel said outside the protocol.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    /// Reads until the pipe closes, which is when the kernel and its children are
    /// gone.
    fn follow(&self, mut pipe: impl AsyncRead + Send + Unpin + 'static) {
        let tail = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
                let mut kept = tail.lock_unpoisoned();
                kept.extend(&buffer[..count]);
                let excess = kept.len().saturating_sub(MAX_TAIL_BYTES);
                kept.drain(..excess);
            }
        });
    }

    fn text(&self) -> String {
        let kept: Vec<u8> = {
            let kept = self.0.lock_unpoisoned();
            kept.iter().copied().collect()
        };
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}
