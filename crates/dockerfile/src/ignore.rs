//! `.dockerignore`: which paths of a context do not belong to it, by Docker's
//! rules. The last pattern that fits a path or a directory above it decides; one
//! with "!" takes the path back in.

use crate::glob::Glob;

/// The patterns of one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    glob: Glob,
    /// Takes back in.
    negated: bool,
}

impl Ignore {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The line, from 1, of a pattern that is none.
    pub(crate) fn new(text: &str) -> Result<Self, usize> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let pattern = line.trim();
            if line.starts_with('#') || pattern.is_empty() {
                continue;
            }
            let (negated, pattern) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, pattern),
            };
            let cleaned = clean(pattern);
            if pattern.is_empty() || cleaned.starts_with("../") || cleaned == ".." {
                return Err(index + 1);
            }
            if cleaned.is_empty() {
                continue;
            }
            let glob = Glob::new(&cleaned).ok_or(index + 1)?;
            patterns.push(Pattern { glob, negated });
        }
        Ok(Self { patterns })
    }

    /// Whether a path, relative to the context, is left out.
    pub(crate) fn excludes(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at);
        let ends: Vec<usize> = ends.chain([path.len()]).collect();
        let mut excluded = false;
        for pattern in &self.patterns {
            // One that changes nothing need not be looked at.
            if pattern.negated == excluded
                && ends.iter().any(|end| pattern.glob.matches(&path[..*end]))
            {
                excluded = !pattern.negated;
            }
        }
        excluded
    }

    /// Whether a directory that is left out may hold what is not.
    pub(crate) fn takes_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }
}

/// A pattern without `.`, `..`, empty parts and slashes at its ends.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let text =
            "# note\n\n/target/\n*.log\n!keep.log\n**/*.tmp\ndocs\n!docs/README.md\na//./b/../c";
        let ignore = Ignore::new(text).expect("patterns");
        for out in [
            "target",
            "target/x/y",
            "x.log",
            "a/b.tmp",
            "docs/x",
            "docs",
            "a/c/d",
        ] {
            assert!(ignore.excludes(out), "{out}");
        }
        for within in [
            "src",
            "keep.log",
            "a/x.log",
            "docs/README.md",
            "a/b",
            "targets",
        ] {
            assert!(!ignore.excludes(within), "{within}");
        }
        assert!(ignore.takes_back());
        assert!(!Ignore::default().excludes("x"));
    }

    #[test]
    fn wrong_patterns_are_named() {
        assert_eq!(Ignore::new("a\n[").unwrap_err(), 2);
        assert_eq!(Ignore::new("!").unwrap_err(), 1);
        assert_eq!(Ignore::new("../x").unwrap_err(), 1);
    }
}
