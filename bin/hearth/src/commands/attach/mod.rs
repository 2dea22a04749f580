//! A command in a sandbox, attached to this process: input, output, terminal size and
//! signals go through, and its exit code comes back.

mod signals;
mod terminal;

pub use signals::Signals;

use anyhow::Context as _;
use hearth_client::{Command, CommandEvent, CommandStream, Exit, SandboxClient, Signal};
use std::{
    convert::Infallible,
    io::{self, Read as _},
    time::Duration,
};
use tokio::sync::mpsc;

/// Bytes of input that are read and sent at once.
const INPUT_BYTES: usize = 64 << 10;
/// Chunks of input that wait for the sandbox to take them.
const INPUT_CHUNKS: usize = 4;
/// The exit code of a process that wrote to a closed pipe.
const BROKEN_PIPE: u8 = 128 + 13;
/// How long a call to the agent may take. A command takes its input when it likes.
pub const CALL_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How a command is run; for `run` and `exec`.
#[derive(Debug, clap::Args)]
pub struct ProcessArgs {
    /// Pass standard input on to the command
    #[arg(short, long)]
    interactive: bool,
    /// Run the command in a terminal, and pass standard input on to it
    #[arg(short, long)]
    tty: bool,
    /// Set a variable of the command's environment
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    envs: Vec<(String, String)>,
    /// Run in this directory [default: the template's]
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Run as this user [default: the template's]
    #[arg(short, long)]
    user: Option<String>,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
}

/// What of this process goes to the command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Standard input.
    pub input: bool,
    /// The terminal that standard input is.
    pub terminal: bool,
}

impl ProcessArgs {
    /// The command, and what is attached to it.
    pub fn split(self) -> (Command, Attachment) {
        let mut line = self.command.into_iter();
        let command = Command {
            program: line.next().unwrap_or_default(),
            args: line.collect(),
            envs: self.envs.into_iter().collect(),
            cwd: self.workdir,
            user: self.user,
            ..Command::default()
        };
        let attachment = Attachment {
            input: self.interactive || self.tty,
            terminal: self.tty,
        };
        (command, attachment)
    }
}

/// `NAME=VALUE`.
pub fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Runs the command to its end; returns the exit code for this process. `signals` were
/// caught from the start on: one that came before the command did ends it at once.
///
/// # Errors
/// When standard input is no terminal although one is asked for, the command cannot be
/// started, or the connection breaks off.
pub async fn run(
    agent: &SandboxClient,
    mut command: Command,
    attachment: Attachment,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let terminal = attachment
        .terminal
        .then(terminal::Terminal::open)
        .transpose()?;
    command.stdin = attachment.input && !attachment.terminal;
    command.pty = terminal
        .as_ref()
        .map(terminal::Terminal::size)
        .transpose()?;
    let mut stream = tokio::select! {
        started = agent.start(command) => started?,
        () = signals.next() => anyhow::bail!("interrupted before the command had started"),
    };
    let pid = stream.pid();
    let _raw = terminal.as_ref().map(|it| it.raw()).transpose()?;
    let output = tokio::select! {
        ended = print_output(&mut stream) => ended,
        never = send_input(agent, pid, attachment) => match never? {},
        never = send_signals(agent, pid, signals) => match never? {},
        never = terminal::follow_size(agent, pid, terminal.as_ref()) => match never? {},
    };
    match output? {
        Some(exit) => Ok(exit_code(&exit)),
        None => {
            agent.signal(pid, Signal::Terminate).await?;
            Ok(BROKEN_PIPE)
        }
    }
}

/// Prints what the command prints; `None` when nobody reads it any more.
async fn print_output(stream: &mut CommandStream) -> anyhow::Result<Option<Exit>> {
    while let Some(event) = stream.next().await? {
        let written = match event {
            CommandEvent::Stdout(bytes) | CommandEvent::Pty(bytes) => {
                write(&mut io::stdout().lock(), &bytes)
            }
            CommandEvent::Stderr(bytes) => write(&mut io::stderr().lock(), &bytes),
            CommandEvent::Ended(exit) => return Ok(Some(exit)),
            CommandEvent::Started { .. } => Ok(()),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
            other => other.context("write the command's output")?,
        }
    }
    anyhow::bail!("the command's output ended before it did")
}

fn write(to: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Passes standard input on, and its end. Returns only with an error.
async fn send_input(
    agent: &SandboxClient,
    pid: u32,
    attachment: Attachment,
) -> anyhow::Result<Infallible> {
    if !attachment.input {
        return std::future::pending().await;
    }
    let mut chunks = read_input()?;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.context("read standard input")?;
        let sent = if attachment.terminal {
            agent.send_pty(pid, chunk).await
        } else {
            agent.send_stdin(pid, chunk).await
        };
        // A command that ended, or closed its input, takes no more; its output says how
        // it went on.
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
    if !attachment.terminal {
        // As above.
        let _ = agent.close_stdin(pid).await;
    }
    std::future::pending().await
}

/// Reads standard input on a thread of its own, which ends with this process: a read
/// cannot be taken back, and a runtime would wait for it.
fn read_input() -> anyhow::Result<mpsc::Receiver<io::Result<Vec<u8>>>> {
    let (sender, receiver) = mpsc::channel(INPUT_CHUNKS);
    let read = move || {
        let mut input = io::stdin().lock();
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            let chunk = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(read)
        .context("start a thread for standard input")?;
    Ok(receiver)
}

/// The first signal to this process asks the command to end, the next one ends it.
/// Returns only with an error.
async fn send_signals(
    agent: &SandboxClient,
    pid: u32,
    signals: &mut Signals,
) -> anyhow::Result<Infallible> {
    signals.next().await;
    agent.signal(pid, Signal::Terminate).await?;
    loop {
        signals.next().await;
        agent.signal(pid, Signal::Kill).await?;
    }
}

/// As a shell gives it: 128 and the signal's number for a command that a signal ended.
fn exit_code(exit: &Exit) -> u8 {
    if exit.exited {
        // The kernel keeps eight bits of it.
        return u8::try_from(exit.code & 0xff).unwrap_or(u8::MAX);
    }
    let name = exit.status.strip_prefix("signal: ").unwrap_or_default();
    let name = name.strip_suffix(" (core dumped)").unwrap_or(name);
    let number = match name {
        "hangup" => 1,
        "interrupt" => 2,
        "quit" => 3,
        "illegal instruction" => 4,
        "aborted" => 6,
        "bus error" => 7,
        "floating point exception" => 8,
        "killed" => 9,
        "segmentation fault" => 11,
        "broken pipe" => 13,
        "alarm clock" => 14,
        "terminated" => 15,
        other => other
            .strip_prefix("signal ")
            .and_then(|number| number.parse().ok())
            .unwrap_or(0),
    };
    if number == 0 {
        u8::MAX
    } else {
        128 + (number & 0x7f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let exited = |code| Exit {
            code,
            exited: true,
            ..Exit::default()
        };
        assert_eq!(exit_code(&exited(0)), 0);
        assert_eq!(exit_code(&exited(7)), 7);
        assert_eq!(exit_code(&exited(-1)), 255);
        let signalled = |status: &str| Exit {
            code: -1,
            exited: false,
            status: status.to_owned(),
            error: None,
        };
        assert_eq!(exit_code(&signalled("signal: killed")), 137);
        assert_eq!(exit_code(&signalled("signal: terminated")), 143);
        assert_eq!(exit_code(&signalled("signal: aborted (core dumped)")), 134);
        assert_eq!(exit_code(&signalled("signal: signal 31")), 159);
        assert_eq!(exit_code(&signalled("unknown")), 255);
    }

    #[test]
    fn variables_have_a_name() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert!(variable("A").is_err());
        assert!(variable("=b").is_err());
    }
}
