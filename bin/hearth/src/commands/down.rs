//! `hearth down`: ends the sandboxes and the daemon. Where the daemon has died,
//! it cleans up what that one left.

use crate::{daemon, settings::Settings};
use anyhow::{Context, bail};
use hearth_layout::lock;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::process::ExitCode;

/// How long the daemon may take to wind down.
const LIMIT_SECONDS: i64 = 60;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the sandboxes running: the next start finds and serves them
    #[arg(long)]
    keep: bool,
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    daemon::log::quiet();
    let Some(pid) = lock::holder(&settings.pid_file()) else {
        if args.keep {
            println!("Hearth is not running.");
            return Ok(ExitCode::SUCCESS);
        }
        let ended = daemon::clean_up(settings).await?;
        println!("Hearth was not running; ended {ended} sandboxes that were left.");
        return Ok(ExitCode::SUCCESS);
    };
    if !args.keep {
        let ended = daemon::end_sandboxes(settings)
            .await
            .context("end the sandboxes")?;
        println!("Ended {ended} sandboxes.");
    }
    stop(pid).await?;
    println!("Hearth has stopped.");
    Ok(ExitCode::SUCCESS)
}

async fn stop(pid: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the pid file holds no pid")?;
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(()); // It ended meanwhile.
    };
    pidfd_send_signal(&process, Signal::TERM).context("signal the daemon")?;
    let ended = tokio::task::spawn_blocking(move || {
        let limit = Timespec {
            tv_sec: LIMIT_SECONDS,
            tv_nsec: 0,
        };
        // A pidfd becomes readable when its process ends.
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))
    });
    match ended.await?.context("wait for the daemon")? {
        0 => bail!("the daemon still runs after {LIMIT_SECONDS} s; see its log"),
        _ => Ok(()),
    }
}
