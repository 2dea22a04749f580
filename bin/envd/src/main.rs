//! The guest agent's binary. As PID 1 it brings the guest up and serves on the
//! agent's port; with `--no-init` it only serves, on an address of choice, for
//! tests on a host.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hearth_guest::boot::{initramfs, system};
use hearth_guest::logging::LineLogger;
use hearth_guest::{Config, DEFAULT_PORT, ENVD_VERSION, Server};
use tokio_util::sync::CancellationToken;

const USAGE: &str = "usage: envd [--version] [--no-init] [--listen ADDRESS:PORT] [--user-root DIR]";

fn main() -> ExitCode {
    if initramfs::is_stage_one() {
        return fail_boot(&initramfs::run());
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
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
    config: Config,
}

fn run() -> anyhow::Result<()> {
    let Some(options) = options(std::env::args().skip(1))? else {
        return Ok(());
    };
    // Only fails when a logger is set already, which nobody has done.
    let _ = tracing::subscriber::set_global_default(LineLogger::new(
        tracing::Level::INFO,
        std::sync::Arc::clone(&options.config.log),
    ));
    if options.init {
        system::bring_up();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let server = Server::bind(options.config, stop.clone()).await?;
        if options.init {
            system::announce_ready();
        } else {
            println!("listening on {}", server.address()?);
        }
        Ok(server.run().await?)
    })
}

/// `None` when all was said already.
fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<Options>> {
    let mut listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
    let mut user_root = PathBuf::from("/");
    let mut init = true;
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
    if init && std::process::id() != 1 {
        bail!("not PID 1; use --no-init on a host\n{USAGE}");
    }
    Ok(Some(Options {
        init,
        config: Config {
            listen,
            user_root,
            manage_system: init,
            log: std::sync::Arc::default(),
        },
    }))
}
