//! Small things that the standard library lacks and that every crate would otherwise
//! write out: locks without poison, and an error with all its causes. Depends on nothing;
//! what needs a runtime or another crate does not belong here.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod lock;

pub use lock::{LockExt, RwLockExt};

use std::{error::Error, fmt::Write as _};

/// An error and its causes, from the outermost, separated by colons: for a log's field or
/// for a person.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        // Writing to a string does not fail.
        let _ = write!(text, ": {source}");
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fmt, io};

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("read the list")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn all_causes_are_named() {
        let inner = io::Error::other("no such list");
        assert_eq!(chain(&inner), "no such list");
        assert_eq!(chain(&Outer(inner)), "read the list: no such list");
    }
}
