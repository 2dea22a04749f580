//! `code-interpreter`: the server that runs code in a sandbox. Static, like the
//! guest agent, so that one binary serves every distribution.

#![forbid(unsafe_code)]

use anyhow::Context;
use axum::serve::ListenerExt;
use clap::Parser;
use hearth_code_interpreter::{Agent, Config, Contexts, Language, Warming, router};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Runs code in Jupyter kernels for clients over HTTP.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[arg(long, default_value = "0.0.0.0:49999")]
    listen: SocketAddr,
    /// The sandbox's agent, which knows its environment variables
    #[arg(long, default_value = "127.0.0.1:49983")]
    agent: SocketAddr,
    /// Run outside a sandbox, without an agent
    #[arg(long, env = "E2B_LOCAL", value_parser = clap::builder::FalseyValueParser::new())]
    local: bool,
    /// Directories with `kernels/<name>/kernel.json`; the first one wins
    #[arg(long, value_delimiter = ':', env = "JUPYTER_PATH")]
    kernels: Vec<PathBuf>,
    /// Where code runs unless a context says otherwise
    #[arg(long, env = "HOME")]
    home: PathBuf,
    /// Where connection files are kept
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Python modules that the first kernel has loaded when it is handed out
    #[arg(long, value_delimiter = ',')]
    preload: Vec<String>,
}

/// Where Jupyter looks for kernels.
const SYSTEM_KERNELS: [&str; 2] = ["/usr/local/share/jupyter", "/usr/share/jupyter"];

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served = runtime
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(serve(args)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("code-interpreter: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let mut kernel_paths = args.kernels;
    kernel_paths.push(args.home.join(".local/share/jupyter"));
    kernel_paths.extend(SYSTEM_KERNELS.map(PathBuf::from));
    let run_dir = args
        .run_dir
        .unwrap_or_else(|| std::env::temp_dir().join(format!(".kernels-{}", std::process::id())));
    let config = Config {
        kernel_paths,
        home: args.home,
        run_dir,
        agent: (!args.local).then(|| Agent::at(args.agent)),
    };
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}", args.listen))?
        // Lines are small and somebody waits for each.
        .tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
    let mut ends = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ];
    let contexts = Contexts::new(config);
    let warming = Warming {
        rehearsals: rehearsals(&args.preload),
    };
    let languages = [Language::python(), Language::javascript()];
    let warmed = async {
        contexts.start_defaults(&languages, &warming).await?;
        tracing::info!("ready");
        std::future::pending::<anyhow::Result<()>>().await
    };
    let router = router(contexts.clone());
    let [terminate, interrupt] = &mut ends;
    // An end needs no grace: kernels die with their handles.
    tokio::select! {
        served = axum::serve(listener, router).into_future() => served.context("serve HTTP"),
        failed = warmed => failed.context("start the default contexts"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// What the first user is likely to do, done once before.
fn rehearsals(modules: &[String]) -> Vec<(Language, String)> {
    let mut rehearsals = vec![
        (Language::python(), "1+1".to_owned()),
        (Language::javascript(), "1+1".to_owned()),
    ];
    for module in modules {
        // Loaded, but not bound to a name of the user's.
        let code = format!("__import__('importlib').import_module({module:?});");
        rehearsals.push((Language::python(), code));
    }
    rehearsals
}
