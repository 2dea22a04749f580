//! Running the host's tools: bounded in time and in kept output, killed when the
//! caller gives up, with messages fit to be shown.

use crate::Error;
use std::{collections::VecDeque, io, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    process::{Child, Command},
};

/// The longest line that is looked at, in bytes; the rest of it is dropped.
const MAX_LINE_BYTES: u64 = 16 * 1024;
/// How many of the last lines an error shows.
const KEPT_LINES: usize = 15;
/// The most that [`Tool::text`] accepts, in bytes.
const MAX_TEXT_BYTES: u64 = 32 << 20;

/// One program and the package that has it.
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
    limit: Duration,
}

impl Tool {
    pub(crate) const fn new(name: &'static str, package: &'static str, limit_seconds: u64) -> Self {
        Self {
            name,
            package,
            limit: Duration::from_secs(limit_seconds),
        }
    }

    /// The command, in the C locale, without a terminal, killed when dropped.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.name);
        command
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs to the end and gives every line of standard error and, unless the
    /// command sends it elsewhere, standard output to `line`.
    pub(crate) async fn lines(
        &self,
        mut command: Command,
        mut line: impl FnMut(&str),
    ) -> Result<(), Error> {
        let mut child = command.spawn().map_err(|error| self.start_error(error))?;
        unprotected(&child);
        let mut output = child.stdout.take().map(Lines::new);
        let mut errors = child.stderr.take().map(Lines::new);
        let mut last = VecDeque::with_capacity(KEPT_LINES);
        let run = async {
            loop {
                let text = tokio::select! {
                    text = next_line(&mut output), if output.is_some() => text,
                    text = next_line(&mut errors), if errors.is_some() => text,
                    else => break,
                };
                let Some(text) = text else { continue };
                line(&text);
                if last.len() == KEPT_LINES {
                    last.pop_front();
                }
                last.push_back(without_credentials(&text));
            }
            child.wait().await
        };
        let status = tokio::time::timeout(self.limit, run)
            .await
            .map_err(|_| self.timeout_error())?
            .map_err(|error| self.start_error(error))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Tool {
            tool: self.name,
            status,
            output: Vec::from(last).join("\n"),
        })
    }

    /// Runs to the end without looking at the output.
    pub(crate) async fn run(&self, command: Command) -> Result<(), Error> {
        self.lines(command, |_| {}).await
    }

    /// Runs to the end and returns standard output as text.
    pub(crate) async fn text(&self, mut command: Command) -> Result<String, Error> {
        let mut child = command.spawn().map_err(|error| self.start_error(error))?;
        unprotected(&child);
        let (mut output, mut errors) = (child.stdout.take(), child.stderr.take());
        let run = async {
            let (output, errors) = tokio::join!(
                read_bounded(&mut output, MAX_TEXT_BYTES),
                read_bounded(&mut errors, MAX_LINE_BYTES)
            );
            Ok::<_, io::Error>((child.wait().await?, output?, errors?))
        };
        let (status, output, errors) = tokio::time::timeout(self.limit, run)
            .await
            .map_err(|_| self.timeout_error())?
            .map_err(|error| self.start_error(error))?;
        if !status.success() {
            return Err(Error::Tool {
                tool: self.name,
                status,
                output: without_credentials(String::from_utf8_lossy(&errors).trim()),
            });
        }
        String::from_utf8(output).map_err(|_| Error::ToolOutput {
            tool: self.name,
            what: "not UTF-8".to_owned(),
        })
    }

    fn start_error(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound {
            Error::ToolMissing {
                tool: self.name,
                package: self.package,
            }
        } else {
            Error::io("run", self.name)(error)
        }
    }

    fn timeout_error(&self) -> Error {
        Error::ToolTimeout {
            tool: self.name,
            limit_seconds: self.limit.as_secs(),
        }
    }
}

/// Takes from a program what protects this process when the host runs out of memory.
/// Without it, the program only lives longer.
fn unprotected(child: &Child) {
    if let Some(pid) = child.id() {
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    }
}

/// Lines of a stream, each cut at [`MAX_LINE_BYTES`].
struct Lines<R> {
    reader: BufReader<R>,
    partial: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(stream: R) -> Self {
        Self {
            reader: BufReader::new(stream),
            partial: Vec::new(),
        }
    }

    /// The next line, or `None` at the end. Cancel-safe: what was read of an
    /// unfinished line stays in `partial`.
    async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            let (used, complete) = {
                let bytes = self.reader.fill_buf().await?;
                if bytes.is_empty() {
                    if self.partial.is_empty() {
                        return Ok(None);
                    }
                    (0, true)
                } else {
                    let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    let text = &bytes[..end.unwrap_or(bytes.len())];
                    let room = usize::try_from(MAX_LINE_BYTES)
                        .unwrap_or(usize::MAX)
                        .saturating_sub(self.partial.len());
                    self.partial
                        .extend_from_slice(&text[..text.len().min(room)]);
                    (end.map_or(bytes.len(), |end| end + 1), end.is_some())
                }
            };
            self.reader.consume(used);
            if complete {
                let line = std::mem::take(&mut self.partial);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
        }
    }
}

/// The next line; a stream at its end, or broken, is dropped.
async fn next_line<R: AsyncRead + Unpin>(lines: &mut Option<Lines<R>>) -> Option<String> {
    let reader = lines.as_mut()?;
    let line = reader.next().await.ok().flatten();
    if line.is_none() {
        *lines = None;
    }
    line
}

/// Reads to the end, keeping at most `limit` bytes.
async fn read_bounded<R: AsyncRead + Unpin>(
    stream: &mut Option<R>,
    limit: u64,
) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(stream) = stream {
        stream.take(limit).read_to_end(&mut kept).await?;
        tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

/// Removes the `user:password@` of every address in a line.
pub(crate) fn without_credentials(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let authority = after
            .find(|letter: char| letter == '/' || letter.is_whitespace())
            .unwrap_or(after.len());
        let host = after[..authority].rfind('@').map_or(0, |at| at + 1);
        rest = &after[host..];
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_both_streams_arrive_and_failure_shows_the_last() {
        let shell = Tool::new("sh", "dash", 30);
        let mut command = shell.command();
        command.args(["-c", "echo one; echo two >&2; printf three; exit 3"]);
        let mut seen = Vec::new();
        let error = shell
            .lines(command, |line| seen.push(line.to_owned()))
            .await
            .expect_err("exit code 3");
        seen.sort();
        assert_eq!(seen, ["one", "three", "two"]);
        assert!(matches!(&error, Error::Tool { output, .. } if output.contains("three")));
    }

    #[tokio::test]
    async fn a_tool_that_hangs_is_given_up() {
        let tool = Tool {
            limit: Duration::from_millis(50),
            ..Tool::new("sleep", "coreutils", 1)
        };
        let mut command = tool.command();
        command.arg("60");
        assert!(matches!(
            tool.run(command).await,
            Err(Error::ToolTimeout { .. })
        ));
    }

    #[tokio::test]
    async fn a_missing_tool_names_its_package() {
        let tool = Tool::new("hearth-no-such-tool", "some-package", 1);
        let error = tool.text(tool.command()).await.expect_err("missing");
        assert!(error.to_string().contains("some-package"));
    }

    #[test]
    fn credentials_are_removed() {
        assert_eq!(
            without_credentials("Err http://me:pw@host/x and https://a@b c://d"),
            "Err http://host/x and https://b c://d"
        );
        assert_eq!(without_credentials("user@host"), "user@host");
    }
}
