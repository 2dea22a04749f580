//! Commands in a build's VM, with their output going to the log as it comes.

use crate::{
    Context, Failure, Part,
    log::{Level, Lines, Log},
    run::Run,
    vm::Vm,
};
use hearth_agent_client::{Command, CommandEvent, CommandStream, Exit};
use std::collections::BTreeMap;

/// The longest command that a message repeats, in characters.
const SHOWN: usize = 200;

/// Where and as whom a command runs.
pub(crate) struct Place<'a> {
    pub(crate) user: &'a str,
    pub(crate) workdir: &'a str,
    pub(crate) env: &'a BTreeMap<String, String>,
}

impl<'a> Place<'a> {
    pub(crate) fn of(context: &'a Context) -> Self {
        Self {
            user: &context.user,
            workdir: &context.workdir,
            env: &context.env,
        }
    }

    /// A line of a login shell. The profile that such a shell reads sets a PATH
    /// of its own; the template's comes after it.
    pub(crate) fn line(&self, line: &str) -> Command {
        let line = match self.env.get("PATH") {
            Some(path) => format!("export PATH={}\n{line}", quoted(path)),
            None => line.to_owned(),
        };
        let mut command = Command::new("/bin/bash").args(["-l".to_owned(), "-c".to_owned(), line]);
        command.envs = self.env.clone();
        command.user = Some(self.user.to_owned());
        command.cwd = Some(self.workdir.to_owned());
        command
    }
}

/// A text as one word of a shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A script of ours, run by root with arguments, whatever shell the image has.
pub(crate) fn script(text: &str, args: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh")
        .args(["-c", text, "hearth"])
        .args(args.iter().copied())
        .user("root");
    command.cwd = Some("/".to_owned());
    command
}

/// Logs a command's events as they come.
pub(crate) struct Output<'a> {
    log: &'a Log,
    part: Part,
    /// Whose output it is; lines begin with it.
    label: String,
    stdout: Lines,
    stderr: Lines,
    /// The last line of either, for messages.
    last: String,
}

impl<'a> Output<'a> {
    pub(crate) fn new(log: &'a Log, part: Part, label: String) -> Self {
        Self {
            log,
            part,
            label,
            stdout: Lines::default(),
            stderr: Lines::default(),
            last: String::new(),
        }
    }

    /// Takes an event; answers with how the command ended, if it did.
    pub(crate) fn take(&mut self, event: CommandEvent) -> Option<Exit> {
        let (log, part, last) = (self.log, Some(self.part), &mut self.last);
        let label = &self.label;
        let mut add = |level: Level, line: &str| {
            let stream = match level {
                Level::Warn => "stderr",
                _ => "stdout",
            };
            log.add(part, level, &format!("[{label}] [{stream}]: {line}"));
            if !line.trim().is_empty() {
                *last = line.trim().chars().take(SHOWN).collect();
            }
        };
        match event {
            CommandEvent::Stdout(bytes) | CommandEvent::Pty(bytes) => {
                self.stdout.feed(&bytes, |line| add(Level::Info, line));
            }
            CommandEvent::Stderr(bytes) => self.stderr.feed(&bytes, |line| add(Level::Warn, line)),
            CommandEvent::Started { .. } => {}
            CommandEvent::Ended(exit) => {
                self.stdout.flush(|line| add(Level::Info, line));
                self.stderr.flush(|line| add(Level::Warn, line));
                return Some(exit);
            }
        }
        None
    }

    async fn follow(&mut self, stream: &mut CommandStream) -> hearth_agent_client::Result<Exit> {
        loop {
            match stream.next().await? {
                Some(event) => {
                    if let Some(exit) = self.take(event) {
                        return Ok(exit);
                    }
                }
                // Only comes after the end.
                None => return Ok(Exit::default()),
            }
        }
    }
}

/// Runs a command to its end. What it writes goes to the log.
pub(crate) async fn run(
    run: &Run<'_>,
    vm: &Vm,
    part: Part,
    command: Command,
) -> Result<(Exit, String), Failure> {
    let mut output = Output::new(run.log, part, run.label(part));
    let ran = async {
        let mut stream = vm.client().start(command).await?;
        output.follow(&mut stream).await
    };
    let ran = tokio::select! {
        ran = ran => ran,
        why = vm.ended() => {
            return Err(Failure::at(part, format!("the build's microVM ended: {why}")));
        }
    };
    match ran {
        Ok(exit) => Ok((exit, output.last)),
        Err(error) => Err(Failure::at(part, refusal(&error))),
    }
}

/// What the agent said, without the way it came.
pub(crate) fn refusal(error: &hearth_agent_client::Error) -> String {
    crate::error::chain(error)
}

/// The sentence about a command that did not succeed.
pub(crate) fn unsuccessful(command: &str, exit: &Exit, last: &str) -> String {
    let shown: String = command.chars().take(SHOWN).collect();
    let more = if shown.len() < command.len() {
        "…"
    } else {
        ""
    };
    let status = if exit.status.is_empty() {
        format!("exit status {}", exit.code)
    } else {
        exit.status.clone()
    };
    let mut text = format!("failed to run command '{shown}{more}': {status}");
    if !last.is_empty() {
        text = format!("{text}: {last}");
    }
    text
}

/// Whether a command succeeds; its output is nobody's business.
pub(crate) async fn succeeds(vm: &Vm, command: Command) -> Result<bool, String> {
    let output = vm
        .client()
        .run(command)
        .await
        .map_err(|error| refusal(&error))?;
    Ok(output.exit.exited && output.exit.code == 0)
}
