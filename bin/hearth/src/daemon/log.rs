//! Where the daemon's log lines go: standard error, filtered by `HEARTH_LOG`
//! (the syntax of `tracing_subscriber::EnvFilter`; default `info`).

use anyhow::Context;
use std::{os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};
use tracing_subscriber::{
    EnvFilter, Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt,
};

pub const VARIABLE: &str = "HEARTH_LOG";
const DEFAULT: &str = "info,hyper=warn,sqlx=warn";

/// Call once, before the daemon starts.
pub fn to_stderr() {
    install(DEFAULT);
}

/// For commands that talk to a person: only what went wrong.
pub fn quiet() {
    install("warn");
}

/// For a daemon at a person's terminal: the file takes everything, the terminal
/// only what went wrong.
pub fn to_file(path: &Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let all = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Arc::new(file));
    let errors = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(LevelFilter::ERROR);
    // A second installation in one process is a no-op.
    let _ = tracing_subscriber::registry()
        .with(all.with_filter(filter(DEFAULT)))
        .with(errors)
        .try_init();
    Ok(())
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(default))
}

fn install(default: &str) {
    // A second installation in one process is a no-op.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter(default))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
