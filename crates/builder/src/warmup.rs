//! Talking to the agent of a guest that is being made into a template.

use crate::{Error, progress::StageProgress};
use hearth_agent_client::{Agent, Command};
use rustix::fs::inotify;
use std::{io, path::Path, time::Duration};
use tokio::net::unix::pipe::Receiver;

/// What the agent writes to the console once it listens.
const READY_LINE: &str = "envd: ready";
/// A console that says more than this before the agent is up is not a console.
const MAX_CONSOLE_BYTES: u64 = 4 << 20;
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long one warm-up line may take.
const LINE_LIMIT: Duration = Duration::from_secs(600);

/// How long a boot may take.
#[derive(Debug, Clone, Copy)]
pub struct BootLimits {
    /// From the kernel's start to an agent that listens.
    pub ready: Duration,
    /// Between two lines on the console; absent where nobody would boot it again.
    pub silence: Option<Duration>,
}

impl BootLimits {
    /// Kernel and agent write a line every few seconds even where they are emulated on
    /// a busy host. A guest that hangs in early boot writes nothing more.
    const SILENCE: Duration = Duration::from_secs(45);

    /// Of a first attempt, after which there is another.
    #[must_use]
    pub fn first(ready: Duration) -> Self {
        Self {
            ready,
            silence: Some(Self::SILENCE),
        }
    }

    /// Of the last attempt: it has all the time that there is.
    #[must_use]
    pub fn last(ready: Duration) -> Self {
        Self {
            ready,
            silence: None,
        }
    }
}

/// Waits until the agent says on the guest's console that it listens, and then
/// asks it once over the network.
///
/// # Errors
/// [`Error::Guest`] when it does not come up in time, [`Error::Silent`] when its
/// console stops before that.
pub async fn wait_for_agent(
    console: &Path,
    agent: &Agent,
    limits: BootLimits,
) -> Result<(), Error> {
    let waiting = wait_for_line(console, READY_LINE, limits.silence);
    tokio::time::timeout(limits.ready, waiting)
        .await
        .map_err(|_| {
            guest(&format!(
                "the agent was not ready within {} s of the boot",
                limits.ready.as_secs()
            ))
        })??;
    agent.health(CALL_LIMIT).await.map_err(|error| {
        guest(&format!(
            "the agent listens, but is not reached at {}: {}",
            agent.address(),
            chain(&error)
        ))
    })
}

/// The error of a VM process that ended before its agent was ready: with the last lines
/// of the console, as far as it can be read.
#[must_use]
pub fn ended_in_boot(console: &Path, why: String) -> Error {
    let text = std::fs::read(console).unwrap_or_default();
    Error::EndedInBoot {
        why,
        console: crate::template::console_tail(&String::from_utf8_lossy(&text)),
    }
}

/// Completes when the file has a line that ends in `line`. The file is watched,
/// not polled.
async fn wait_for_line(path: &Path, line: &str, silence: Option<Duration>) -> Result<(), Error> {
    let watch = watch(path).map_err(Error::io("watch the console", path))?;
    loop {
        // Looked at after the watch stands: nothing written since is missed.
        let size = std::fs::metadata(path)
            .map_err(Error::io("inspect the console", path))?
            .len();
        if size > MAX_CONSOLE_BYTES {
            return Err(guest(&"the guest floods its console"));
        }
        let text = std::fs::read(path).map_err(Error::io("read the console", path))?;
        let text = String::from_utf8_lossy(&text);
        if text.lines().any(|found| found.trim_end().ends_with(line)) {
            return Ok(());
        }
        let changed = changed(&watch);
        let changed = match silence {
            None => changed.await,
            Some(limit) => match tokio::time::timeout(limit, changed).await {
                Ok(changed) => changed,
                Err(_) => {
                    return Err(Error::Silent {
                        seconds: limit.as_secs(),
                        console: crate::template::console_tail(&text),
                    });
                }
            },
        };
        changed.map_err(Error::io("watch the console", path))?;
    }
}

/// An inotify descriptor is read like a pipe, and tokio's reader of pipes waits
/// for any such descriptor.
fn watch(path: &Path) -> io::Result<Receiver> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let descriptor = inotify::init(flags)?;
    inotify::add_watch(&descriptor, path, inotify::WatchFlags::MODIFY)?;
    Receiver::from_owned_fd_unchecked(descriptor)
}

/// Waits for the next change and swallows what is queued about it.
async fn changed(watch: &Receiver) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        watch.readable().await?;
        match watch.try_read(&mut buffer) {
            Ok(_) => return Ok(()),
            // Not readable after all.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Runs the lines one after another and then empties the guest's caches to disk.
pub(crate) async fn run(
    agent: &Agent,
    lines: &[String],
    progress: StageProgress<'_>,
) -> Result<(), Error> {
    let client = agent
        .client(CALL_LIMIT)
        .map_err(|error| guest(&chain(&error)))?;
    for line in lines.iter().map(String::as_str).chain(["sync"]) {
        progress.step(&format!("warm up: {line}"));
        let command = Command::shell(line).user("user").timeout(LINE_LIMIT);
        let output = client
            .run(command)
            .await
            .map_err(|error| guest(&format!("warm-up {line:?}: {}", chain(&error))))?;
        if output.exit.code != 0 {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(guest(&format!(
                "warm-up {line:?}: {}: {stderr}",
                output.exit.status
            )));
        }
    }
    Ok(())
}

fn guest(what: &dyn std::fmt::Display) -> Error {
    Error::Guest {
        what: what.to_string(),
        console: String::new(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn the_line_is_seen_when_it_comes() {
        let mut console = tempfile::NamedTempFile::new().unwrap();
        writeln!(console, "[    0.0] Linux\r").unwrap();
        let path = console.path().to_owned();
        let waiting = tokio::spawn(async move { wait_for_line(&path, READY_LINE, None).await });
        tokio::task::yield_now().await;
        for part in ["[    1.0] more\r\n", "envd: re", "ady\r\n"] {
            assert!(!waiting.is_finished());
            console.write_all(part.as_bytes()).unwrap();
            console.flush().unwrap();
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_console_that_stops_is_noticed_before_the_boot_has_had_its_time() {
        let mut console = tempfile::NamedTempFile::new().unwrap();
        writeln!(console, "[    3.1] smp: Bringing up secondary CPUs\r").unwrap();
        let limits = BootLimits {
            ready: Duration::from_secs(600),
            silence: Some(Duration::from_millis(50)),
        };
        let agent = Agent::at(([127, 0, 0, 1], 9).into());
        let error = wait_for_agent(console.path(), &agent, limits)
            .await
            .expect_err("nothing more comes");
        assert!(matches!(error, Error::Silent { .. }), "{error}");
        assert!(error.to_string().contains("secondary CPUs"), "{error}");
    }

    #[tokio::test]
    async fn a_silent_guest_is_given_up_and_a_flood_refused() {
        let console = tempfile::NamedTempFile::new().unwrap();
        let agent = Agent::at(([127, 0, 0, 1], 9).into());
        let limits = BootLimits::last(Duration::from_millis(20));
        let error = wait_for_agent(console.path(), &agent, limits)
            .await
            .expect_err("nothing comes");
        assert!(error.to_string().contains("not ready"), "{error}");
        console.as_file().set_len(MAX_CONSOLE_BYTES + 1).unwrap();
        let error = wait_for_line(console.path(), READY_LINE, None)
            .await
            .expect_err("too much");
        assert!(error.to_string().contains("floods"), "{error}");
    }
}
