//! Progress bars for a terminal, plain lines elsewhere.

use hearth_builder::{Event, Outcome, Progress, Stage, Unit};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Draws one bar per stage.
pub struct Bars {
    multi: MultiProgress,
    stages: Mutex<HashMap<Stage, Line>>,
    terminal: bool,
}

struct Line {
    bar: ProgressBar,
    begun: Instant,
    step: String,
}

impl Bars {
    pub fn new() -> Self {
        Self {
            multi: MultiProgress::new(),
            stages: Mutex::default(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn line(&self) -> Line {
        let bar = self.multi.add(ProgressBar::new_spinner());
        bar.set_style(spinner());
        if self.terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Line {
            bar,
            begun: Instant::now(),
            step: String::new(),
        }
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Step { stage, text } => {
                let line = stages.entry(stage).or_insert_with(|| self.line());
                if line.step != text {
                    line.step = text.to_owned();
                    line.bar.set_style(spinner());
                    line.bar.set_message(format!("{stage}: {text}"));
                    if !self.terminal {
                        println!("  … {stage}: {text}");
                    }
                }
            }
            Event::Advanced {
                stage,
                done,
                total,
                unit,
            } => {
                let line = stages.entry(stage).or_insert_with(|| self.line());
                match total {
                    Some(total) => {
                        line.bar.set_style(counted(unit));
                        line.bar.set_length(total);
                        line.bar.set_position(done);
                    }
                    None => line
                        .bar
                        .set_message(format!("{stage}: {} ({done})", line.step)),
                }
            }
            Event::Finished { stage, outcome } => {
                let line = stages.remove(&stage);
                let took = line
                    .as_ref()
                    .map(|line| line.begun.elapsed())
                    .unwrap_or_default();
                if let Some(line) = line {
                    line.bar.finish_and_clear();
                    self.multi.remove(&line.bar);
                }
                let how = match outcome {
                    Outcome::Present => "ready".to_owned(),
                    Outcome::FromCache => format!("from the cache, {:.1} s", took.as_secs_f64()),
                    Outcome::Built => format!("made in {:.1} s", took.as_secs_f64()),
                };
                // The bars share the terminal: they step aside for this line.
                self.multi.suspend(|| println!("  ✓ {stage}: {how}"));
            }
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {msg} [{elapsed}]").expect("a constant template")
}

fn counted(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => "  {spinner} {msg} {wide_bar} {bytes}/{total_bytes} [{elapsed}]",
        Unit::Items => "  {spinner} {msg} {wide_bar} {pos}/{len} [{elapsed}]",
    };
    ProgressStyle::with_template(template).expect("a constant template")
}
