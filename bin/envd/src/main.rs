//! The guest agent's binary. As PID 1 it brings the guest up and serves on the
//! agent's port; with `--no-init` it only serves, on an address of choice, for
//! tests on a host. `--take-over` continues what another version of it left.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hearth_guest::boot::{beside, initramfs, system};
use hearth_guest::handover::state::{FORMAT, State};
use hearth_guest::handover::{self, Successor, image};
use hearth_guest::logging::LineLogger;
use hearth_guest::sys::{heap, inherit};
use hearth_guest::{Config, DEFAULT_PORT, ENVD_VERSION, Outcome, Server};
use tokio_util::sync::CancellationToken;

const USAGE: &str = "usage: envd [--version] [--no-init] [--listen ADDRESS:PORT] [--user-root DIR]";

fn main() -> ExitCode {
    if initramfs::is_stage_one() {
        return fail_boot(&initramfs::run());
    }
    match run() {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(successor)) => {
            eprintln!("envd: cannot be replaced: {}", successor.execute());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("envd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// PID 1 must not return, or the kernel panics without the reason. It says the
/// reason, and the panic then ends the virtual machine.
fn fail_boot(error: &std::io::Error) -> ExitCode {
    if let Ok(mut console) = std::fs::File::options().write(true).open("/dev/console") {
        use std::io::Write as _;
        let _ = writeln!(console, "envd: cannot boot: {error}");
    }
    ExitCode::FAILURE
}

struct Options {
    init: bool,
    /// Another program is PID 1 and has brought the system up.
    beside: bool,
    config: Config,
    predecessor: Option<Predecessor>,
}

/// What the version before left: its listening socket and its state.
struct Predecessor {
    listener: OwnedFd,
    state: State,
}

impl Predecessor {
    fn of(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut descriptor = || -> anyhow::Result<OwnedFd> {
            let number: RawFd = arguments.next().context(USAGE)?.parse()?;
            inherit::adopt(number).context("the predecessor left no descriptor")
        };
        let (listener, state) = (descriptor()?, descriptor()?);
        // Without the state there would be no token, and the sandbox open to all:
        // then rather no agent.
        let state = State::read(state).context("read what the predecessor left")?;
        Ok(Self { listener, state })
    }
}

/// Serves. The successor, if there is one, is executed when the runtime is gone.
fn run() -> anyhow::Result<Option<Successor>> {
    let Some(options) = options(std::env::args().skip(1))? else {
        return Ok(None);
    };
    heap::prepare();
    // After a handover it would be the number of a descriptor.
    let _ = rustix::thread::set_name(c"envd");
    // Only fails when a logger is set already, which nobody has done.
    let _ = tracing::subscriber::set_global_default(LineLogger::new(
        tracing::Level::INFO,
        std::sync::Arc::clone(&options.config.log),
    ));
    if options.init && !options.beside && options.predecessor.is_none() {
        system::bring_up();
        if let Some(init) = beside::requested() {
            match beside::run(&init) {
                Ok(never) => match never {},
                Err(error) => bail!("start {init} as PID 1: {error}"),
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(serve(options))?;
    // File operations that are stuck must not hold up a handover.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(match outcome {
        Outcome::Stopped => None,
        Outcome::Replaced(successor) => Some(successor),
    })
}

async fn serve(options: Options) -> anyhow::Result<Outcome> {
    let stop = CancellationToken::new();
    let config = options.config;
    let server = match options.predecessor {
        Some(Predecessor { listener, state }) => Server::take_over(config, stop, listener, state)?,
        None => {
            let server = Server::bind(config, stop).await?;
            if options.init {
                system::announce_ready();
            } else {
                println!("listening on {}", server.address()?);
            }
            server
        }
    };
    Ok(server.run().await?)
}

/// `None` when all was said already.
fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<Options>> {
    let mut listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
    let mut user_root = PathBuf::from("/");
    let mut init = true;
    let mut beside = false;
    let mut predecessor = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--version" => {
                println!("{ENVD_VERSION}");
                return Ok(None);
            }
            "--help" => {
                println!("{USAGE}");
                return Ok(None);
            }
            image::FORMAT_ARGUMENT => {
                println!("{FORMAT}");
                return Ok(None);
            }
            handover::ARGUMENT => predecessor = Some(Predecessor::of(&mut arguments)?),
            beside::ARGUMENT => beside = true,
            "--no-init" => init = false,
            "--listen" => {
                let address = arguments.next().context(USAGE)?;
                listen = address
                    .parse()
                    .with_context(|| format!("address {address}"))?;
            }
            "--user-root" => user_root = arguments.next().context(USAGE)?.into(),
            initramfs::STAGE_TWO_ARGUMENT => {}
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    if init && !beside && std::process::id() != 1 {
        bail!("not PID 1; use --no-init on a host\n{USAGE}");
    }
    Ok(Some(Options {
        init,
        beside,
        predecessor,
        config: Config {
            listen,
            user_root,
            manage_system: init,
            log: std::sync::Arc::default(),
        },
    }))
}
