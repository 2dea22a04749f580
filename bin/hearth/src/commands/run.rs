//! `hearth run`, `hearth exec` and `hearth shell`: commands in sandboxes.

use super::attach::{self, Attachment, ProcessArgs, Signals};
use super::client;
use crate::settings::Settings;
use hearth_client::{Command, ControlClient, NewSandbox, Sandbox, SandboxId};
use std::{collections::BTreeMap, process::ExitCode, time::Duration};

/// `hearth run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    sandbox: NewArgs,
    /// Keep the sandbox when the command has ended, and print its ID on the error output
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    process: ProcessArgs,
}

/// The sandbox that a command is run in, where a new one is made.
#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Template of the sandbox: an ID, or `name[:tag]`
    #[arg(long, default_value = "base", value_name = "TEMPLATE")]
    template: String,
    /// Seconds after which the sandbox ends in any case
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    timeout: u64,
    /// Mark the sandbox, for lists and filters
    #[arg(long, value_name = "NAME=VALUE", value_parser = attach::variable)]
    metadata: Vec<(String, String)>,
    /// Let the sandbox reach nothing outside
    #[arg(long)]
    no_internet: bool,
}

/// `hearth exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Seconds that the sandbox lives from now, at least
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// ID of the sandbox; a paused one is resumed
    id: String,
    #[command(flatten)]
    process: ProcessArgs,
}

/// `hearth shell`.
#[derive(Debug, clap::Args)]
pub struct ShellArgs {
    #[command(flatten)]
    sandbox: NewArgs,
    /// Run as this user [default: the template's]
    #[arg(short, long)]
    user: Option<String>,
    /// ID of a sandbox; without one a new sandbox is made, and ended with the shell
    id: Option<String>,
}

/// Makes a sandbox, runs the command in it, and ends the sandbox.
pub async fn run(settings: &Settings, args: RunArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let client = client(settings)?;
    let (command, attachment) = args.process.split();
    let sandbox = client.sandbox_create(&args.sandbox.request()?).await?;
    if args.keep {
        eprintln!("{}", sandbox.sandbox_id);
        return in_sandbox(&client, &sandbox, command, attachment, &mut signals).await;
    }
    in_own_sandbox(&client, &sandbox, command, attachment, &mut signals).await
}

/// Runs the command in a sandbox that there is.
pub async fn exec(settings: &Settings, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let client = client(settings)?;
    let (command, attachment) = args.process.split();
    let sandbox = connect(&client, &args.id, args.timeout).await?;
    in_sandbox(&client, &sandbox, command, attachment, &mut signals).await
}

/// A login shell on this terminal.
pub async fn shell(settings: &Settings, args: ShellArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let client = client(settings)?;
    let mut command = Command::new("/bin/bash").args(["-i", "-l"]);
    command.user = args.user;
    // What the terminal understands is known here alone.
    if let Ok(terminal) = std::env::var("TERM") {
        command = command.env("TERM", terminal);
    }
    let attachment = Attachment {
        input: true,
        terminal: true,
    };
    match args.id {
        Some(id) => {
            let sandbox = connect(&client, &id, args.sandbox.timeout).await?;
            in_sandbox(&client, &sandbox, command, attachment, &mut signals).await
        }
        None => {
            let sandbox = client.sandbox_create(&args.sandbox.request()?).await?;
            in_own_sandbox(&client, &sandbox, command, attachment, &mut signals).await
        }
    }
}

impl NewArgs {
    fn request(&self) -> anyhow::Result<NewSandbox> {
        let metadata: BTreeMap<String, String> = self.metadata.iter().cloned().collect();
        Ok(NewSandbox {
            template_id: self.template.clone(),
            timeout: Some(i64::try_from(self.timeout)?),
            metadata: (!metadata.is_empty()).then_some(metadata),
            allow_internet_access: self.no_internet.then_some(false),
            ..NewSandbox::default()
        })
    }
}

async fn connect(client: &ControlClient, id: &str, timeout: u64) -> anyhow::Result<Sandbox> {
    let id = SandboxId::parse_client(id)?;
    let timeout = Duration::from_secs(timeout);
    Ok(client.sandbox_connect(&id, Some(timeout)).await?)
}

/// Runs a command in a sandbox that ends with it, however that is.
async fn in_own_sandbox(
    client: &ControlClient,
    sandbox: &Sandbox,
    command: Command,
    attachment: Attachment,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let ended = in_sandbox(client, sandbox, command, attachment, signals).await;
    let killed = client
        .sandbox_kill(&SandboxId::parse_client(&sandbox.sandbox_id)?)
        .await;
    let code = ended?;
    killed?;
    Ok(code)
}

async fn in_sandbox(
    client: &ControlClient,
    sandbox: &Sandbox,
    command: Command,
    attachment: Attachment,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    let agent = client
        .clone()
        .with_timeout(attach::CALL_LIMIT)
        .sandbox_client(sandbox)?;
    let code = attach::run(&agent, command, attachment, signals).await?;
    Ok(ExitCode::from(code))
}
