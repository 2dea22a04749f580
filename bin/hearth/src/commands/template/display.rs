//! What a build says: lines, and on a terminal what it does right now below them.

use hearth_client::BuildLogEntry;
use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal, time::Duration};

pub struct Display {
    /// Where there is a terminal.
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Display {
    pub fn new(quiet: bool) -> Self {
        let terminal = !quiet && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {wide_msg} [{elapsed}]")
                    .expect("a constant template"),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, quiet }
    }

    /// Says what is being done.
    pub fn step(&self, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(text.to_owned());
                bar.reset_elapsed();
            }
            None => self.line(text),
        }
    }

    /// Shows an entry of the log: a step's title, or what came of it, indented.
    pub fn entry(&self, entry: &BuildLogEntry) {
        for (index, line) in entry.message.lines().enumerate() {
            let line = printable(line);
            if let Some(output) = output(&line) {
                self.line(&format!("    {output}"));
            } else if index == 0 && is_title(&line) {
                if let Some(bar) = &self.bar {
                    bar.set_message(line.clone());
                    bar.reset_elapsed();
                }
                self.line(&line);
            } else {
                self.line(&format!("    {line}"));
            }
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            _ if self.quiet => {}
            // The bar steps aside for it.
            Some(bar) => bar.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
    }

    /// Takes the bar away, for good.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn is_title(line: &str) -> bool {
    let line = line.strip_prefix("CACHED ").unwrap_or(line);
    let titles = [
        "[base]",
        "[builder ",
        "[finalize]",
        "Running start command: ",
        "Waiting for template to be ready: ",
        "Template is ready",
    ];
    titles.iter().any(|start| line.starts_with(start))
}

/// What a command wrote, without the label in front: the title above tells whose it is.
fn output(line: &str) -> Option<&str> {
    let (label, rest) = line.strip_prefix('[')?.split_once("] [")?;
    let (stream, text) = rest.split_once("]: ")?;
    let known = matches!(label, "base" | "finalize" | "start") || label.starts_with("builder ");
    (known && matches!(stream, "stdout" | "stderr")).then_some(text)
}

/// Without what would move a terminal's cursor about.
fn printable(line: &str) -> String {
    let keep = |c: &char| !c.is_control() || *c == '\t';
    line.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_known_and_control_characters_go() {
        assert!(is_title("[builder 1/2] RUN x") && is_title("CACHED [finalize]"));
        assert!(!is_title("[x] y") && !is_title("CACHED y"));
        assert_eq!(output("[builder 1/2] [stderr]: [x]: y"), Some("[x]: y"));
        assert_eq!(output("[start] [stdout]: "), Some(""));
        assert_eq!(output("[builder 1/2] RUN echo [stdout]: x"), None);
        assert_eq!(printable("a\u{1b}[2Jb\tc\r"), "a[2Jb\tc");
    }
}
