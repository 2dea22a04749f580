//! `hearth logs`: what a sandbox's programs and its agent said.

use super::client;
use crate::settings::Settings;
use hearth_client::{ControlClient, LogLevel, LogQuery, SandboxId, SandboxLogEntry};
use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

/// Entries that one request asks for: what the API gives at most.
const PAGE: u32 = 1000;
/// Time between two questions for newer entries.
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what is said from now on, until the sandbox ends
    #[arg(short, long)]
    follow: bool,
    /// How many of the newest entries to begin with
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1000))]
    tail: u32,
    /// Only entries of this level and above
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only entries with this text
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Print each entry as a line of JSON, with all of its fields
    #[arg(long)]
    json: bool,
    /// ID of the sandbox; one that has ended is remembered for a while
    id: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}

pub async fn run(settings: &Settings, args: Args) -> anyhow::Result<ExitCode> {
    let client = client(settings)?;
    let id = SandboxId::parse_client(&args.id)?;
    let query = LogQuery {
        level: args.level.map(LogLevel::from),
        search: args.search,
        ..LogQuery::default()
    };
    let newest = LogQuery {
        limit: Some(args.tail.max(1)),
        ..query.clone()
    };
    let mut entries = client.sandbox_logs(&id, &newest).await?;
    entries.reverse();
    let mut printer = Printer::new(args.json);
    let mut open = true;
    if args.tail == 0 {
        // Where to go on from, but not to be seen.
        printer.unprinted(entries);
    } else {
        open = printer.print(entries)?;
    }
    if args.follow {
        printer.count_older(&client.sandbox_logs(&id, &printer.next(&query)).await?);
    }
    while open && args.follow {
        // Asked before the entries: what was said until the end is in them.
        let ended = has_ended(&client, &id).await?;
        open = print_newer(&client, &id, &query, &mut printer).await?;
        if ended {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn has_ended(client: &ControlClient, id: &SandboxId) -> anyhow::Result<bool> {
    match client.sandbox(id).await {
        Ok(_) => Ok(false),
        Err(error) if error.status() == Some(404) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Prints all entries that are newer than what was printed; false when nobody reads them.
async fn print_newer(
    client: &ControlClient,
    id: &SandboxId,
    query: &LogQuery,
    printer: &mut Printer,
) -> anyhow::Result<bool> {
    loop {
        let entries = client.sandbox_logs(id, &printer.next(query)).await?;
        let full = entries.len() == PAGE as usize;
        let before = printer.newest;
        if !printer.print(entries)? {
            return Ok(false);
        }
        if !full {
            return Ok(true);
        }
        if printer.newest == before {
            printer.skip_rest();
        }
    }
}

/// Prints entries once, although the API's cursor, a millisecond, repeats the last ones.
struct Printer {
    json: bool,
    /// Milliseconds since 1970 of the newest entry.
    newest: Option<i64>,
    /// How many entries of that millisecond were printed, or are older than those.
    of_newest: usize,
    /// The last entry that was printed.
    last: Option<SandboxLogEntry>,
}

impl Printer {
    fn new(json: bool) -> Self {
        Self {
            json,
            newest: None,
            of_newest: 0,
            last: None,
        }
    }

    /// Asks for the entries from the newest on.
    fn next(&self, query: &LogQuery) -> LogQuery {
        LogQuery {
            cursor: self.newest,
            forward: true,
            limit: Some(PAGE),
            ..query.clone()
        }
    }

    /// Takes those entries of the newest one's millisecond that come before it, which were
    /// more than were to be printed, for printed. `entries` are those from it on.
    fn count_older(&mut self, entries: &[SandboxLogEntry]) {
        let Some(last) = &self.last else { return };
        let same = |entry: &SandboxLogEntry| {
            (entry.timestamp, &entry.message, &entry.fields)
                == (last.timestamp, &last.message, &last.fields)
        };
        let of_newest = entries
            .iter()
            .take_while(|entry| Some(entry.timestamp.timestamp_millis()) == self.newest);
        let known = of_newest
            .enumerate()
            .filter(|(_, entry)| same(entry))
            .last();
        if let Some((at, _)) = known {
            self.of_newest = self.of_newest.max(at + 1);
        }
    }

    /// Goes on after a millisecond that has more entries than a page.
    fn skip_rest(&mut self) {
        self.newest = self.newest.map(|newest| newest + 1);
        self.of_newest = 0;
    }

    /// What of `entries`, oldest first, was not yet printed; from now on it is.
    fn unprinted(&mut self, entries: Vec<SandboxLogEntry>) -> Vec<SandboxLogEntry> {
        let mut to_skip = self.of_newest;
        let before = self.newest;
        let mut fresh = Vec::new();
        for entry in entries {
            let time = entry.timestamp.timestamp_millis();
            if before.is_some_and(|newest| time < newest) {
                continue;
            }
            if before == Some(time) && to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            if self.newest == Some(time) {
                self.of_newest += 1;
            } else {
                self.newest = Some(time);
                self.of_newest = 1;
            }
            self.last = Some(entry.clone());
            fresh.push(entry);
        }
        fresh
    }

    /// False when nobody reads them.
    fn print(&mut self, entries: Vec<SandboxLogEntry>) -> anyhow::Result<bool> {
        let mut output = io::stdout().lock();
        for entry in self.unprinted(entries) {
            let line = if self.json {
                serde_json::to_string(&entry)?
            } else {
                line(&entry)
            };
            match writeln!(output, "{line}") {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                other => other?,
            }
        }
        Ok(true)
    }
}

/// What a guest said moves no cursor about.
fn line(entry: &SandboxLogEntry) -> String {
    let message: String = entry
        .message
        .trim_end()
        .chars()
        .map(|c| if c.is_control() && c != '\t' { ' ' } else { c })
        .collect();
    format!(
        "{} {:5} {message}",
        entry.timestamp.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
        entry.level.as_str(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn entry(millis: i64, message: &str) -> SandboxLogEntry {
        SandboxLogEntry {
            timestamp: DateTime::from_timestamp_millis(millis).expect("a time"),
            message: message.to_owned(),
            level: LogLevel::Info,
            fields: std::collections::BTreeMap::new(),
        }
    }

    fn messages(entries: &[SandboxLogEntry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.message.as_str()).collect()
    }

    #[test]
    fn entries_that_come_again_are_printed_once() {
        let mut printer = Printer::new(false);
        let first = printer.unprinted(vec![entry(1, "a"), entry(2, "b"), entry(2, "b")]);
        assert_eq!(messages(&first), ["a", "b", "b"]);
        // From the cursor on, that of the newest included: two known, one new of the same
        // time, one of a later one.
        let again = vec![entry(2, "b"), entry(2, "b"), entry(2, "c"), entry(5, "d")];
        assert_eq!(messages(&printer.unprinted(again)), ["c", "d"]);
        assert_eq!(messages(&printer.unprinted(vec![entry(5, "d")])), [""; 0]);
        assert_eq!(printer.newest, Some(5));
    }

    #[test]
    fn what_was_cut_off_before_the_newest_is_not_printed_later() {
        let mut printer = Printer::new(false);
        // The newest two of four of one time.
        printer.unprinted(vec![entry(7, "c"), entry(7, "d")]);
        let page = vec![entry(7, "a"), entry(7, "b"), entry(7, "c"), entry(7, "d")];
        printer.count_older(&page);
        assert_eq!(messages(&printer.unprinted(page)), [""; 0]);
        let page = vec![
            entry(7, "a"),
            entry(7, "b"),
            entry(7, "c"),
            entry(7, "d"),
            entry(7, "e"),
        ];
        assert_eq!(messages(&printer.unprinted(page)), ["e"]);
        printer.skip_rest();
        assert_eq!(
            messages(&printer.unprinted(vec![entry(7, "z"), entry(8, "f")])),
            ["f"]
        );
    }

    #[test]
    fn a_line_holds_one_entry_without_control_characters() {
        let line = line(&entry(0, "red \u{1b}[31m\nnext\n"));
        assert_eq!(line, "1970-01-01T00:00:00.000Z info  red  [31m next");
    }
}
