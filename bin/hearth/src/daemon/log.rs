//! Where the daemon's log lines go: standard error, filtered by `HEARTH_LOG`
//! (the syntax of `tracing_subscriber::EnvFilter`; default `info`).

use anyhow::Context;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub const VARIABLE: &str = "HEARTH_LOG";
/// Sizes at which the logs are put aside; one of each is kept.
const LOG_BYTES: u64 = 64 << 20;
const ACCESS_LOG_BYTES: u64 = 256 << 20;
const DEFAULT: &str = "info,hyper=warn,sqlx=warn,hearth_edge::access=warn";

/// How many lines of the log are quoted, and how much of it is read for them.
const QUOTED: usize = 5;
const READ_BYTES: u64 = 1 << 20;

/// Call once, before the daemon starts.
pub fn to_stderr() {
    install(DEFAULT, None);
}

/// For the daemon: the same, and its access log where there is one.
pub fn of_daemon(access: Option<&Path>) -> anyhow::Result<()> {
    install(DEFAULT, access.map(open_access).transpose()?);
    Ok(())
}

/// For commands that talk to a person: only what went wrong.
pub fn quiet() {
    install("warn", None);
}

/// For a daemon at a person's terminal: the file takes everything, the terminal
/// only what went wrong.
pub fn to_file(path: &Path, access: Option<&Path>) -> anyhow::Result<()> {
    let file = Rotating::open(path, LOG_BYTES)?;
    let all = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(move || file.clone());
    let errors = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(LevelFilter::ERROR);
    // A second installation in one process is a no-op.
    let _ = tracing_subscriber::registry()
        .with(all.with_filter(filter(DEFAULT)))
        .with(errors)
        .with(access.map(open_access).transpose()?.map(access_layer))
        .try_init();
    Ok(())
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(default))
}

fn open_access(path: &Path) -> anyhow::Result<Rotating> {
    Rotating::open(path, ACCESS_LOG_BYTES)
}

fn install(default: &str, access: Option<Rotating>) {
    let errors = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second installation in one process is a no-op.
    let _ = tracing_subscriber::registry()
        .with(errors.with_filter(filter(default)))
        .with(access.map(access_layer))
        .try_init();
}

/// A place in the daemon's log. What a client is told of a failure is short on purpose;
/// whoever starts the daemon is owed the cause, which the log has.
pub struct Mark {
    path: PathBuf,
    length: u64,
}

impl Mark {
    /// The end of the log as it is now.
    pub fn end_of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            length: std::fs::metadata(path).map_or(0, |found| found.len()),
        }
    }

    /// The error, and what went wrong by the log since then.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        // A log that cannot be read has no part in what went wrong.
        let text = self.read().unwrap_or_default();
        let lines = troubles(&text);
        if lines.is_empty() {
            return error;
        }
        let path = self.path.display();
        anyhow::anyhow!("{error:#}\nThe log {path} says:\n  {}", lines.join("\n  "))
    }

    fn read(&self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.length))?;
        let mut text = Vec::new();
        file.take(READ_BYTES).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The last lines that tell of something wrong: warnings, errors, and the words with
/// which a process ends.
fn troubles(text: &str) -> Vec<&str> {
    let wrong = |line: &&str| {
        let level = line.split_whitespace().nth(1);
        matches!(level, Some("WARN" | "ERROR")) || line.starts_with("hearth: ")
    };
    let found: Vec<&str> = text.lines().filter(wrong).collect();
    found[found.len().saturating_sub(QUOTED)..].to_vec()
}

/// A log that is written to for ever, and never gets larger than two times its limit:
/// when it is full it becomes `<name>.old`, in the place of the former one.
#[derive(Clone)]
struct Rotating(Arc<Mutex<Current>>);

struct Current {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    limit: u64,
}

impl Rotating {
    fn open(path: &Path, limit: u64) -> anyhow::Result<Self> {
        let file = open(path)?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let path = path.to_owned();
        let current = Current {
            path,
            file,
            size,
            limit,
        };
        Ok(Self(Arc::new(Mutex::new(current))))
    }
}

impl std::io::Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.size > 0 && current.size + bytes.len() as u64 > current.limit {
            current.rotate();
        }
        // One line is one write, so that lines of several threads stay whole.
        let written = (&*current.file).write(bytes)?;
        current.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Current {
    /// On a failure the old file grows on: better too large than lost. It is tried
    /// again after another tenth of the limit.
    fn rotate(&mut self) {
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        let renamed = std::fs::rename(&self.path, old);
        match renamed
            .map_err(anyhow::Error::from)
            .and_then(|()| open(&self.path))
        {
            Ok(file) => (self.file, self.size) = (file, 0),
            Err(_) => self.size = self.limit - self.limit / 10,
        }
    }
}

/// Opened for appending, so that `logrotate` with `copytruncate` suits it, too.
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
fn access_layer<S>(file: Rotating) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_target(false)
        .with_level(false)
        .with_writer(move || file.clone())
        .with_filter(Targets::new().with_target(hearth_edge::ACCESS_LOG, LevelFilter::INFO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_error_is_explained_by_what_the_log_says_since() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hearth.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z  WARN old: before\n").unwrap();
        let mark = Mark::end_of(&path);
        let told = mark.explain(anyhow::anyhow!("500"));
        assert_eq!(told.to_string(), "500");
        let mut log = File::options().append(true).open(&path).unwrap();
        for line in [
            "2026-01-01T00:00:01Z  INFO node: fine",
            "2026-01-01T00:00:02Z  WARN node: create a sandbox: Permission denied",
            "hearth: start the node",
        ] {
            writeln!(log, "{line}").unwrap();
        }
        let told = mark.explain(anyhow::anyhow!("500")).to_string();
        assert!(told.starts_with("500\nThe log "), "{told}");
        assert!(
            told.contains("Permission denied\n  hearth: start the node"),
            "{told}"
        );
        assert!(!told.contains("before") && !told.contains("fine"), "{told}");
    }

    #[test]
    fn of_many_lines_the_last_are_quoted() {
        let text: String = (0..9).map(|n| format!("t ERROR {n}\n")).collect();
        assert_eq!(troubles(&text).len(), QUOTED);
        assert_eq!(troubles(&text).last(), Some(&"t ERROR 8"));
    }

    #[test]
    fn a_log_keeps_its_latest_lines_and_stays_small() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hearth.log");
        let mut log = Rotating::open(&path, 1000).expect("opened");
        for number in 0..500 {
            writeln!(log, "line {number}").expect("written");
        }
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect(name);
        let (old, new) = (read("hearth.log.old"), read("hearth.log"));
        assert!(
            old.len() <= 1000 && new.len() <= 1000,
            "{} {}",
            old.len(),
            new.len()
        );
        let all = format!("{old}{new}");
        let expected: Vec<String> = (0..500).map(|number| format!("line {number}")).collect();
        let kept: Vec<&str> = all.lines().collect();
        assert!(kept.len() > 60);
        assert!(
            expected.ends_with(
                &kept
                    .iter()
                    .map(|line| (*line).to_owned())
                    .collect::<Vec<_>>()
            )
        );
        // Found again by the next daemon.
        let mut log = Rotating::open(&path, 1000).expect("opened");
        writeln!(log, "{}", "x".repeat(990)).expect("written");
        assert_eq!(read("hearth.log").len(), 991);
    }
}
