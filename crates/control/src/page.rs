//! Cursors of paged lists: base64 of `<RFC 3339 with nanoseconds>__<id>`, with
//! `__asc` behind it where the list is read oldest first.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use chrono::{DateTime, SecondsFormat, Utc};
use hearth_ids::SandboxId;

/// In which order a list is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Newest first.
    #[default]
    Descending,
    Ascending,
}

/// The last entry of a page: the next one begins behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxCursor {
    pub started_at: DateTime<Utc>,
    pub sandbox_id: SandboxId,
    pub direction: Direction,
}

const MAX_LENGTH: usize = 512;

impl SandboxCursor {
    #[must_use]
    pub fn encode(&self) -> String {
        let time = self.started_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let suffix = match self.direction {
            Direction::Descending => "",
            Direction::Ascending => "__asc",
        };
        URL_SAFE.encode(format!("{time}__{}{suffix}", self.sandbox_id))
    }

    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let bytes = URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text));
        let text = String::from_utf8(bytes.ok()?).ok()?;
        let mut parts = text.split("__");
        let started_at = DateTime::parse_from_rfc3339(parts.next()?).ok()?;
        let sandbox_id = parts.next()?.parse().ok()?;
        let direction = match parts.next() {
            None => Direction::Descending,
            Some("asc") => Direction::Ascending,
            Some(_) => return None,
        };
        parts.next().is_none().then(|| Self {
            started_at: started_at.with_timezone(&Utc),
            sandbox_id,
            direction,
        })
    }

    /// Whether an entry belongs behind this cursor.
    #[must_use]
    pub fn precedes(&self, started_at: DateTime<Utc>, id: &SandboxId) -> bool {
        let entry = (started_at, id);
        let cursor = (self.started_at, &self.sandbox_id);
        match self.direction {
            Direction::Descending => entry < cursor,
            Direction::Ascending => entry > cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back(nanos in 0i64..4_000_000_000_000_000_000, ascending: bool) {
            let cursor = SandboxCursor {
                started_at: DateTime::from_timestamp_nanos(nanos),
                sandbox_id: SandboxId::random(),
                direction: if ascending { Direction::Ascending } else { Direction::Descending },
            };
            prop_assert_eq!(SandboxCursor::decode(&cursor.encode()), Some(cursor));
        }

        #[test]
        fn nothing_that_callers_send_panics(text in ".{0,80}", bytes: Vec<u8>) {
            let _ = SandboxCursor::decode(&text);
            let _ = SandboxCursor::decode(&URL_SAFE.encode(bytes));
        }
    }
}
