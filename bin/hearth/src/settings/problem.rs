//! What is wrong with settings, and where.

use std::fmt;
use std::path::PathBuf;

/// A value that a key may not have.
#[derive(Debug)]
pub struct Problem {
    /// The key with its section, such as `api.port`.
    pub key: &'static str,
    /// What is wrong with its value, to be read after the key.
    pub message: String,
}

impl Problem {
    pub(super) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self {
            key,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for Problem {}

/// What is wrong with a file.
#[derive(Debug)]
pub struct FileProblem {
    /// The file.
    pub file: PathBuf,
    /// Line and column from 1 on, where the parser knows them.
    pub place: Option<(usize, usize)>,
    /// The key with its section; none where the text is not TOML.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(formatter, ":{line}:{column}")?;
        }
        if let Some(key) = &self.key {
            write!(formatter, ": {key}")?;
        }
        write!(formatter, ": {}", self.message)
    }
}

impl std::error::Error for FileProblem {}
