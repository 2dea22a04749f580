//! Waiting for a guest that boots: its agent says on the console when it listens.

use crate::{
    Error,
    limits::{BootLimits, CALL_LIMIT},
};
use hearth_agent_client::Agent;
use hearth_util::chain;
use rustix::fs::inotify;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};
use tokio::net::unix::pipe::Receiver;

/// What the agent writes to the console once it listens.
const READY_LINE: &str = "envd: ready";
/// A console that says more than this before the agent is up is not a console.
const MAX_CONSOLE_BYTES: u64 = 4 << 20;
/// What is looked at of a console's end, for messages.
const TAIL_BYTES: u64 = 16 << 10;

/// Waits until the agent says on the guest's console that it listens, and then asks it
/// once over the network.
pub(crate) async fn wait_for_agent(
    console: &Path,
    agent: &Agent,
    limits: BootLimits,
) -> Result<(), Error> {
    let waiting = wait_for_line(console, READY_LINE, limits.silence);
    match tokio::time::timeout(limits.ready, waiting).await {
        Ok(waited) => waited?,
        Err(_) => {
            let seconds = limits.ready.as_secs();
            let what = format!("the agent was not ready within {seconds} s of the boot");
            return Err(not_ready(what, console));
        }
    }
    agent.health(CALL_LIMIT).await.map_err(|error| {
        let (address, why) = (agent.address(), chain(&error));
        let what = format!("the agent listens, but is not reached at {address}: {why}");
        not_ready(what, console)
    })
}

fn not_ready(what: impl Into<String>, console: &Path) -> Error {
    Error::NotReady {
        what: what.into(),
        console: tail_of(console),
    }
}

/// The last lines of a console's file; none where it cannot be read.
pub(crate) fn tail_of(console: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(console)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    tail(&String::from_utf8_lossy(&read().unwrap_or_default()))
}

/// The last lines of a console.
fn tail(text: &str) -> String {
    const KEPT: usize = 20;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(KEPT)..].join("\n")
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
            return Err(not_ready("the guest floods its console", path));
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
                        console: tail(&text),
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
        let limits = BootLimits {
            ready: Duration::from_millis(20),
            silence: None,
        };
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
