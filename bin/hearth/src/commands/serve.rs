//! `hearth serve`: the daemon alone, as a service manager runs it.

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
    let stopped = daemon::signals::Stop::listen()?;
    // A reload with nothing to read again ends nobody.
    let _reload = signal(SignalKind::hangup())?;
    if args.announce {
        println!("{ANNOUNCEMENT}");
    }
    daemon::service_manager::ready(&settings.api_url());
    stopped.wait().await;
    daemon::service_manager::stopping();
    daemon.stop().await;
    Ok(ExitCode::SUCCESS)
}
