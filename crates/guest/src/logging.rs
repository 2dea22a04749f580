//! The agent's own log: one line per event to one file descriptor. Small on
//! purpose; the usual subscriber is a tenth of the whole binary. The host gets
//! the same events through the sandbox's log.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::telemetry::{self, Log, Origin};

/// Writes events of at least a level to standard error.
#[derive(Debug)]
pub struct LineLogger {
    level: Level,
    log: Arc<Log>,
}

impl LineLogger {
    pub fn new(level: Level, log: Arc<Log>) -> Self {
        Self { level, log }
    }
}

impl Subscriber for LineLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut text = Line(String::new());
        event.record(&mut text);
        let (level, target) = (*metadata.level(), metadata.target());
        let line = format!("envd {level} {target}:{}\n", text.0);
        // Nobody can be told when the log itself fails.
        let _ = std::io::stderr().write_all(line.as_bytes());
        let fields = [("target", target.to_owned())];
        let text = text.0.trim_start();
        self.log.write(severity(level), Origin::Envd, text, fields);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn severity(level: Level) -> telemetry::Level {
    match level {
        Level::ERROR => telemetry::Level::Error,
        Level::WARN => telemetry::Level::Warn,
        Level::INFO => telemetry::Level::Info,
        _ => telemetry::Level::Debug,
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}
