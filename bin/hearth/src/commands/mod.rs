//! The command line: one file per command.

mod attach;
mod bench;
mod config;
mod cp;
mod dns;
mod doctor;
mod down;
mod env;
mod events;
mod input;
mod key;
mod logs;
mod mcp;
mod membership;
mod migrate;
mod node;
mod output;
mod reference;
mod run;
mod sandbox;
mod secret;
mod serve;
mod show;
mod snapshot;
mod team;
mod template;
mod trust;
mod up;
mod usage;
mod volume;
mod webhook;

use crate::settings::Settings;
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// A sandbox cloud for code that you do not trust, on any Linux machine.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, max_term_width = 100)]
pub struct Cli {
    /// Settings file [default: /etc/hearth/hearth.toml, when there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare what is missing, start Hearth, prove that it works, and stay up
    Up(up::Args),
    /// Stop Hearth, and every sandbox but those that are paused
    Down(down::Args),
    /// Run the daemon alone, with what `hearth up` has prepared
    Serve(serve::Args),
    /// Print what a shell exports to use Hearth: eval "$(hearth env)"
    Env(env::Args),
    /// Let browsers and the system trust Hearth's certificates, or no longer
    Trust(trust::Args),
    /// Serve the names of the sandboxes, where no other name server does
    Dns(dns::Args),
    /// Check whether this machine can run Hearth, and how to mend what is amiss
    Doctor(doctor::Args),
    /// Manage API keys
    Key(key::Args),
    /// Manage teams and what each may use
    Team(team::Args),
    /// Show what teams and sandboxes used
    Usage(usage::Args),
    /// Copy what Hearth remembers from SQLite into an empty PostgreSQL database
    Migrate(migrate::Args),
    /// List nodes, and have them take sandboxes or no new ones
    Node(node::Args),
    /// Keep secrets that rules put into requests
    Secret(secret::Args),
    /// Make, list, copy and delete volumes
    Volume(volume::Args),
    /// List, pause, resume, copy and end sandboxes
    Sandbox(sandbox::Args),
    /// Run a command in a sandbox of its own, which ends with it
    Run(run::RunArgs),
    /// Run a command in a sandbox that there is
    Exec(run::ExecArgs),
    /// Open a shell in a sandbox, or in a new one that ends with it
    Shell(run::ShellArgs),
    /// Copy files and directories into sandboxes and out of them
    Cp(cp::Args),
    /// Print what a sandbox's programs and its agent said
    Logs(logs::Args),
    /// Print what happened to sandboxes
    Events(events::Args),
    /// Send events to URLs, and see what came of that
    Webhook(webhook::Args),
    /// Give sandboxes to an agent, by the Model Context Protocol
    Mcp(mcp::Args),
    /// Look at the builds on this machine's disk
    Snapshot(snapshot::Args),
    /// Build, list, tag, prepare and delete templates
    Template(template::Args),
    /// Print the default settings, or check a settings file
    Config(config::Args),
    /// Measure Hearth on this machine
    Bench(bench::Args),
    /// Print the script that lets a shell complete these commands
    Completions(reference::CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(reference::ManArgs),
}

pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let settings = match &cli.command {
        // There to find out what is wrong with the settings.
        Command::Config(_) | Command::Completions(_) | Command::Man(_) => Settings::default(),
        _ => Settings::load(cli.config.as_deref())?,
    };
    // A shell's and a service's usual soft limit holds 75 sandboxes; the hard one is
    // there to be used.
    crate::daemon::descriptors::raise();
    let daemon = match &cli.command {
        Command::Up(_) | Command::Serve(_) => true,
        Command::Node(args) => args.is_daemon(),
        _ => false,
    };
    if daemon {
        crate::daemon::privileges::give_up_needless();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let config = cli.config;
    runtime.block_on(async move {
        match cli.command {
            Command::Up(args) => up::run(&settings, config.as_deref(), args).await,
            Command::Down(args) => down::run(&settings, args).await,
            Command::Serve(args) => serve::run(&settings, &args).await,
            Command::Env(args) => env::run(&settings, &args),
            Command::Trust(args) => trust::run(&settings, &args),
            Command::Dns(args) => dns::run(&settings, args).await,
            Command::Doctor(args) => doctor::run(&settings, &args).await,
            Command::Key(args) => key::run(&settings, args).await,
            Command::Team(args) => team::run(&settings, args).await,
            Command::Usage(args) => usage::run(&settings, args).await,
            Command::Migrate(args) => migrate::run(&settings, args).await,
            Command::Node(args) => node::run(&settings, args).await,
            Command::Secret(args) => secret::run(&settings, args).await,
            Command::Volume(args) => volume::run(&settings, args).await,
            Command::Sandbox(args) => sandbox::run(&settings, args).await,
            Command::Run(args) => run::run(&settings, args).await,
            Command::Exec(args) => run::exec(&settings, args).await,
            Command::Shell(args) => run::shell(&settings, args).await,
            Command::Cp(args) => cp::run(&settings, args).await,
            Command::Logs(args) => logs::run(&settings, args).await,
            Command::Events(args) => events::run(&settings, args).await,
            Command::Webhook(args) => webhook::run(&settings, args).await,
            Command::Mcp(args) => mcp::run(&settings, args).await,
            Command::Snapshot(args) => snapshot::run(&settings, args).await,
            Command::Template(args) => template::run(&settings, args).await,
            Command::Config(args) => config::run(config.as_deref(), args),
            Command::Bench(args) => bench::run(&settings, args).await,
            Command::Completions(args) => Ok(reference::completions(&args)),
            Command::Man(args) => reference::man(&args),
        }
    })
}

/// A client of the daemon on this machine, with the first team's key.
fn client(settings: &Settings) -> anyhow::Result<hearth_client::ControlClient> {
    let key = env::api_key(settings)?;
    Ok(hearth_client::ControlClient::new(
        &settings.api_url(),
        &key,
    )?)
}
