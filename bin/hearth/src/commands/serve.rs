//! `hearth serve` and `hearth node run`: the daemon alone, as a service manager runs it.

use crate::{daemon, settings::Settings};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Printed on standard output once the daemon listens, when asked for.
pub const ANNOUNCEMENT: &str = "ready";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print "ready" on standard output, and close it, once the daemon listens
    #[arg(long)]
    announce: bool,
}

pub async fn run(settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    daemon::log::of_daemon(settings.access_log.as_deref())?;
    let daemon = daemon::Daemon::start(settings).await?;
    until_stopped(args, &settings.api_url()).await?;
    daemon.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// The daemon of a machine that is a node and nothing else.
pub async fn run_node(settings: &Settings, args: &Args) -> anyhow::Result<()> {
    daemon::log::of_daemon(settings.access_log.as_deref())?;
    let daemon = daemon::member::NodeDaemon::start(settings).await?;
    until_stopped(args, &settings.node.advertised(&daemon::node::name())).await?;
    daemon.stop().await;
    Ok(())
}

/// Tells that the daemon listens, and where, and waits until it is to end.
async fn until_stopped(args: &Args, address: &str) -> anyhow::Result<()> {
    let stopped = daemon::signals::Stop::listen()?;
    // A reload with nothing to read again ends nobody.
    let _reload = signal(SignalKind::hangup())?;
    if args.announce {
        println!("{ANNOUNCEMENT}");
    }
    daemon::service_manager::ready(address);
    stopped.wait().await;
    daemon::service_manager::stopping();
    Ok(())
}
