//! Commands in a guest: started by one call, whose answer streams their output.

use crate::client::user_header;
use crate::terminal::PtySize;
use crate::{AgentClient, Error, Result};
use connectrpc::client::{CallOptions, ServerStream};
use hearth_guest_proto::process as proto;
use hyper::body::Incoming;
use proto::__buffa::oneof::process_event::{Event, data_event};
use proto::__buffa::view::StartResponseView;
use std::collections::BTreeMap;
use std::time::Duration;

/// Asks the agent for a sign of life this often, in seconds, as the official SDKs do.
const KEEPALIVE_SECONDS: &str = "50";
/// Output that [`AgentClient::run`] holds at most, per stream.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// A path, or a name that the guest looks for.
    pub program: String,
    /// Arguments, without the program.
    pub args: Vec<String>,
    /// Variables beyond those of the sandbox.
    pub envs: BTreeMap<String, String>,
    /// Relative to the user's home; the sandbox's default directory when absent.
    pub cwd: Option<String>,
    /// The sandbox's default user when absent.
    pub user: Option<String>,
    /// Names the process for later calls.
    pub tag: Option<String>,
    /// Whether input will be sent.
    pub stdin: bool,
    /// The agent kills the process after this time; never when absent.
    pub timeout: Option<Duration>,
    /// Runs it in a terminal of this size.
    pub pty: Option<PtySize>,
}

impl Command {
    /// A line for a login shell, run as the official SDKs run theirs.
    #[must_use]
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new("/bin/bash").args(["-l", "-c"]).args([line])
    }

    /// A program without arguments.
    #[must_use]
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            ..Self::default()
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.envs.insert(name.into(), value.into());
        self
    }

    /// Runs it as this user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Kills it after this time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// What happens to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandEvent {
    /// It runs.
    Started {
        /// Its number in the guest.
        pid: u32,
    },
    /// A part of its standard output.
    Stdout(Vec<u8>),
    /// A part of its standard error.
    Stderr(Vec<u8>),
    /// Output of a terminal.
    Pty(Vec<u8>),
    /// It has ended; nothing follows.
    Ended(Exit),
}

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code.
    pub code: i32,
    /// False when a signal ended it.
    pub exited: bool,
    /// For a person, for example `exit status 1`.
    pub status: String,
    /// Why it did not run to its end, if so.
    pub error: Option<String>,
}

/// A command's whole output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: Exit,
}

/// The events of a running command. Dropping it leaves the command running.
pub struct CommandStream {
    stream: ServerStream<Incoming, StartResponseView<'static>>,
    pid: u32,
    ended: bool,
}

impl AgentClient {
    /// Starts a command and waits until it runs.
    pub async fn start(&self, command: Command) -> Result<CommandStream> {
        let mut options =
            CallOptions::default().with_header("keepalive-ping-interval", KEEPALIVE_SECONDS);
        if let Some(timeout) = command.timeout {
            options = options.with_timeout(timeout);
        }
        if let Some(user) = &command.user {
            let (name, value) = user_header(user);
            options = options.with_header(name, value);
        }
        let stream = self
            .process_client()
            .start_with_options(start_request(command), options)
            .await?;
        let mut stream = CommandStream {
            stream,
            pid: 0,
            ended: false,
        };
        match stream.receive().await? {
            Some(CommandEvent::Started { pid }) => stream.pid = pid,
            other => {
                let what = format!("the command's first event is {other:?}");
                return Err(Error::protocol(what));
            }
        }
        Ok(stream)
    }

    /// Runs a command to its end and returns its output.
    pub async fn run(&self, command: Command) -> Result<Output> {
        let mut stream = self.start(command).await?;
        let mut output = Output::default();
        while let Some(event) = stream.next().await? {
            match event {
                CommandEvent::Stdout(bytes) | CommandEvent::Pty(bytes) => {
                    append(&mut output.stdout, &bytes)?;
                }
                CommandEvent::Stderr(bytes) => append(&mut output.stderr, &bytes)?,
                CommandEvent::Ended(exit) => output.exit = exit,
                CommandEvent::Started { .. } => {}
            }
        }
        Ok(output)
    }
}

impl CommandStream {
    /// The command's process id in the guest.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next event; `None` after [`CommandEvent::Ended`]. A stream that breaks off
    /// before that is an error.
    pub async fn next(&mut self) -> Result<Option<CommandEvent>> {
        let event = self.receive().await?;
        match &event {
            Some(CommandEvent::Ended(_)) => self.ended = true,
            None if !self.ended => {
                return Err(Error::protocol("the command's stream ended before it did"));
            }
            _ => {}
        }
        Ok(event)
    }

    async fn receive(&mut self) -> Result<Option<CommandEvent>> {
        while let Some(message) = self.stream.message().await? {
            let response = message.to_owned_message();
            let event = response.event.into_option().and_then(|event| event.event);
            if let Some(event) = event.and_then(convert) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// `None` for keep-alives and for events of a later contract.
fn convert(event: Event) -> Option<CommandEvent> {
    match event {
        Event::Start(start) => Some(CommandEvent::Started { pid: start.pid }),
        Event::Data(data) => data.output.map(|output| match output {
            data_event::Output::Stdout(bytes) => CommandEvent::Stdout(bytes),
            data_event::Output::Stderr(bytes) => CommandEvent::Stderr(bytes),
            data_event::Output::Pty(bytes) => CommandEvent::Pty(bytes),
        }),
        Event::End(end) => Some(CommandEvent::Ended(Exit {
            code: end.exit_code,
            exited: end.exited,
            status: end.status,
            error: end.error,
        })),
        Event::Keepalive(_) => None,
    }
}

fn start_request(command: Command) -> proto::StartRequest {
    let pty = command.pty.map(PtySize::message);
    proto::StartRequest {
        process: proto::ProcessConfig {
            cmd: command.program,
            args: command.args,
            envs: command.envs.into_iter().collect(),
            cwd: command.cwd,
            ..Default::default()
        }
        .into(),
        pty: pty.map_or_else(Default::default, Into::into),
        tag: command.tag,
        stdin: Some(command.stdin),
        ..Default::default()
    }
}

fn append(output: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    if output.len() + bytes.len() > MAX_OUTPUT_BYTES {
        return Err(Error::TooLarge {
            limit: MAX_OUTPUT_BYTES,
        });
    }
    output.extend_from_slice(bytes);
    Ok(())
}
