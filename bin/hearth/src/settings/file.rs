//! Reading a file, and saying where in it something is wrong.

use super::{FileProblem, Problem, Settings};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Reads settings from a file's text. Values are not checked against each other.
pub(super) fn parse(file: &Path, text: &str) -> Result<Settings, FileProblem> {
    let problem = |error: &toml::de::Error, key: Option<String>| FileProblem {
        file: file.to_owned(),
        place: error.span().map(|span| place(text, span.start)),
        key,
        message: error.message().trim().replace('\n', ", "),
    };
    let document = toml::Deserializer::parse(text).map_err(|error| problem(&error, None))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let key = error.path().to_string();
        problem(error.inner(), (key != ".").then_some(key))
    })
}

/// The problem with the place of its key in the file; unchanged where the file does not
/// set that key.
pub(super) fn locate(file: &Path, text: &str, problem: Problem) -> Result<FileProblem, Problem> {
    let Some(offset) = offset(text, problem.key) else {
        return Err(problem);
    };
    Ok(FileProblem {
        file: file.to_owned(),
        place: Some(place(text, offset)),
        key: Some(problem.key.to_owned()),
        message: problem.message,
    })
}

/// Where `section.key` stands in the text.
fn offset(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let (name, value) = table
            .iter()
            .find(|(name, _)| name.get_ref().as_ref() == part)?;
        if parts.peek().is_none() {
            return Some(name.span().start);
        }
        let DeValue::Table(inner) = value.get_ref() else {
            return None;
        };
        table = inner;
    }
    None
}

/// Line and column, from 1 on, of a byte of the text.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}
