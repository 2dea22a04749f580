//! Where the daemon's log lines go: standard error, filtered by `HEARTH_LOG`
//! (the syntax of `tracing_subscriber::EnvFilter`; default `info`).

use anyhow::Context;
use std::{fs::File, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub const VARIABLE: &str = "HEARTH_LOG";
const DEFAULT: &str = "info,hyper=warn,sqlx=warn,hearth_edge::access=warn";

/// Call once, before the daemon starts.
pub fn to_stderr() {
    install(DEFAULT, None);
}

/// For the daemon: the same, and its access log where there is one.
pub fn of_daemon(access: Option<&Path>) -> anyhow::Result<()> {
    install(DEFAULT, access.map(open).transpose()?);
    Ok(())
}

/// For commands that talk to a person: only what went wrong.
pub fn quiet() {
    install("warn", None);
}

/// For a daemon at a person's terminal: the file takes everything, the terminal
/// only what went wrong.
pub fn to_file(path: &Path, access: Option<&Path>) -> anyhow::Result<()> {
    let file = open(path)?;
    let all = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(file);
    let errors = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(LevelFilter::ERROR);
    // A second installation in one process is a no-op.
    let _ = tracing_subscriber::registry()
        .with(all.with_filter(filter(DEFAULT)))
        .with(errors)
        .with(access.map(open).transpose()?.map(access_layer))
        .try_init();
    Ok(())
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(default))
}

fn install(default: &str, access: Option<Arc<File>>) {
    let errors = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second installation in one process is a no-op.
    let _ = tracing_subscriber::registry()
        .with(errors.with_filter(filter(default)))
        .with(access.map(access_layer))
        .try_init();
}

/// Opened for appending, so that `logrotate` with `copytruncate` suits it.
fn open(path: &Path) -> anyhow::Result<Arc<File>> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    Ok(Arc::new(file))
}

/// One JSON object per request for a sandbox.
fn access_layer<S>(file: Arc<File>) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_target(false)
        .with_level(false)
        .with_writer(file)
        .with_filter(Targets::new().with_target(hearth_edge::ACCESS_LOG, LevelFilter::INFO))
}
