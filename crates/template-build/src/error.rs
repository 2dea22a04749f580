//! Two kinds of failure: a call that is refused, and a build that fails. The
//! second is a sentence for the template's author and names the step.

use std::{fmt, io, path::PathBuf};

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("build {0} exists already")]
    AlreadyExists(hearth_ids::BuildId),
    #[error("there is no build {0}")]
    NotFound(hearth_ids::BuildId),
    #[error("{0}")]
    Busy(String),
    #[error("{doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("keep the build")]
    Store(#[from] hearth_snapshot::Error),
}

impl Error {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

/// The part of a build that log entries and failures belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Getting the source ready.
    Base,
    /// A step, counted from 1.
    Step(usize),
    /// Start command, ready command, snapshot.
    Finalize,
}

impl Part {
    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "base" => Some(Self::Base),
            "finalize" => Some(Self::Finalize),
            number => number.parse().ok().map(Self::Step),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => formatter.write_str("base"),
            Self::Step(number) => number.fmt(formatter),
            Self::Finalize => formatter.write_str("finalize"),
        }
    }
}

/// Why a build failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the author.
    pub message: String,
    /// Absent where no part is to blame, such as for a cancelled build.
    pub part: Option<Part>,
}

impl Failure {
    pub(crate) fn at(part: Part, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            part: Some(part),
        }
    }

    /// A fault of the node, with all that is known of it.
    pub(crate) fn of<E: std::error::Error + 'static>(
        part: Part,
        doing: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |error| Self::at(part, format!("{doing}: {}", chain(&error)))
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        next = source.source();
    }
    text
}
