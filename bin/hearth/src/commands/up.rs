//! `hearth up`: from nothing to a platform that has just proved itself.

use super::{doctor as doctor_command, env};
use crate::{
    daemon::{self, Daemon},
    doctor::{self, Verdict},
    progress::Bars,
    settings::Settings,
};
use anyhow::{Context, bail};
use hearth_client::{Command, ControlClient, Error, NewSandbox, Node, NodeStatus, SandboxId};
use hearth_layout::lock::{self, Lock};
use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};
use tokio::io::{AsyncBufReadExt, BufReader};

/// How long a detached daemon may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Return when Hearth is up; `hearth down` stops it
    #[arg(long)]
    detach: bool,
    /// Prepare everything, but start nothing
    #[arg(long, conflicts_with = "detach")]
    prepare_only: bool,
}

pub async fn run(
    settings: &Settings,
    config: Option<&Path>,
    args: Args,
) -> anyhow::Result<ExitCode> {
    if let Some(pid) = lock::holder(&settings.pid_file()) {
        println!("Hearth is up already (process {pid}).\n");
        print_usage(settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.detach {
        daemon::log::to_file(&settings.log_file(), settings.access_log.as_deref())?;
    } else {
        daemon::log::quiet();
    }
    println!("Checking this machine …");
    check_machine(settings).await?;

    let begun = Instant::now();
    println!(
        "Preparing what guests boot from: kernel, initramfs, and the template `base`. The first \
         time takes minutes; what is there is reused."
    );
    {
        let _lock = Lock::take(&settings.pid_file())?;
        daemon::prepare::prepare(settings, &Bars::new()).await?;
    }
    println!("Prepared in {:.1} s.", begun.elapsed().as_secs_f64());
    if args.prepare_only {
        return Ok(ExitCode::SUCCESS);
    }

    println!("Starting the daemon …");
    let mark = daemon::log::Mark::end_of(&settings.log_file());
    if args.detach {
        let proved = async {
            start_detached(settings, config).await?;
            prove(settings).await
        };
        proved.await.map_err(|error| mark.explain(error))?;
        print_usage(settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    let daemon = Daemon::start(settings).await?;
    if let Err(error) = prove(settings).await {
        daemon.stop().await;
        return Err(mark.explain(error));
    }
    print_usage(settings)?;
    println!(
        "\nHearth stays up; Ctrl-C stops it. Its log: {}",
        settings.log_file().display()
    );
    daemon::signals::stop().await?;
    println!("\nStopping …");
    let left = daemon.stop().await;
    if left > 0 {
        println!(
            "{left} sandboxes keep running; `hearth up` finds them again, `hearth down` ends them."
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Stops at the first thing that would make a start fail, and prints all of them.
async fn check_machine(settings: &Settings) -> anyhow::Result<()> {
    let checks = doctor::examine(settings).await;
    for check in checks.iter().filter(|check| check.verdict != Verdict::Ok) {
        doctor_command::print(check);
    }
    if doctor::passed(&checks) {
        Ok(())
    } else {
        bail!("this machine cannot run Hearth yet; `hearth doctor` checks again")
    }
}

/// Creates a sandbox through the API, runs a line of Python in it, ends it.
async fn prove(settings: &Settings) -> anyhow::Result<()> {
    println!("Starting a first sandbox, to run a line of Python in it …");
    let client = super::client(settings)?;
    let begun = Instant::now();
    let new = NewSandbox {
        template_id: "base".to_owned(),
        timeout: Some(120),
        ..NewSandbox::default()
    };
    let sandbox = match client.sandbox_create(&new).await {
        Ok(sandbox) => sandbox,
        Err(Error::Status {
            status, message, ..
        }) if matches!(status, 429 | 503) && is_drained_or_in_use(&client).await => {
            println!("No sandbox was started to try it: {message}");
            return Ok(());
        }
        Err(error) => return Err(error).context("create a first sandbox"),
    };
    let created = begun.elapsed();
    let id = SandboxId::parse_client(&sandbox.sandbox_id)?;
    let output = async {
        let agent = client.sandbox_client(&sandbox)?;
        agent.run(Command::shell("python3 -c 'print(6 * 7)'")).await
    };
    let output = output.await.context("run Python in the first sandbox");
    let total = begun.elapsed();
    client
        .sandbox_kill(&id)
        .await
        .context("end the first sandbox")?;
    let output = output?;
    if output.exit.code != 0 || output.stdout.trim_ascii() != b"42" {
        bail!("Python in the first sandbox answered {output:?} instead of 42");
    }
    println!(
        "A sandbox was created in {} ms and had run Python after {} ms.",
        created.as_millis(),
        total.as_millis()
    );
    Ok(())
}

/// Whether a refusal says nothing against this machine: an operator has its node drained, or
/// sandboxes that outlived the former daemon leave no room.
async fn is_drained_or_in_use(client: &ControlClient) -> bool {
    let excuses = |node: &Node| {
        let drained = matches!(node.status, NodeStatus::Draining | NodeStatus::Standby);
        drained || node.sandbox_count > 0
    };
    let nodes = client.node_list().await;
    nodes.is_ok_and(|nodes| nodes.iter().any(excuses))
}

fn print_usage(settings: &Settings) -> anyhow::Result<()> {
    let program = std::env::current_exe().unwrap_or_else(|_| "hearth".into());
    println!("\nHearth is up at {}. In a shell:\n", settings.api_url());
    println!("  eval \"$({} env)\"", program.display());
    for (name, _) in env::exports(settings, env::Way::best(settings))? {
        println!("    # exports {name}");
    }
    println!("\nThen, with `pip install e2b`:\n");
    println!("  from e2b import Sandbox");
    println!("  with Sandbox.create() as sandbox:");
    println!("      sandbox.files.write(\"hello.py\", \"print('Hello from a microVM')\")");
    println!("      result = sandbox.commands.run(\"python3 hello.py\")");
    println!("      print(result.stdout)");
    Ok(())
}

/// Starts `hearth serve` in a session of its own and waits until it listens.
async fn start_detached(settings: &Settings, config: Option<&Path>) -> anyhow::Result<()> {
    let log_path = settings.log_file();
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("open {}", log_path.display()))?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command
        .args(["serve", "--announce"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0);
    let mut command = tokio::process::Command::from(command);
    let mut child = command.spawn().context("start the daemon")?;
    let stdout = child
        .stdout
        .take()
        .context("read the daemon's announcement")?;
    let mut line = String::new();
    let read = tokio::time::timeout(START_LIMIT, BufReader::new(stdout).read_line(&mut line)).await;
    match read {
        Ok(Ok(_)) if line.trim() == super::serve::ANNOUNCEMENT => Ok(()),
        Ok(_) => bail!(
            "the daemon did not start; its log, {}, says why",
            log_path.display()
        ),
        Err(_) => bail!(
            "the daemon did not listen within {START_LIMIT:?}; see {}",
            log_path.display()
        ),
    }
}
