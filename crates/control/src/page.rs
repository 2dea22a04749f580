//! Cursors of paged lists: base64 of `<RFC 3339 with nanoseconds>__<id>`, with
//! `__asc` behind it where the list is read oldest first.

use crate::error::{Error, Kind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use chrono::{DateTime, SecondsFormat, Utc};
use std::fmt::Display;
use std::str::FromStr;

const ASCENDING: &str = "__asc";

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
pub(crate) struct Cursor<I> {
    pub(crate) at: DateTime<Utc>,
    pub(crate) id: I,
    pub direction: Direction,
}

/// A page of `T`, and where the next one begins, if there is one.
#[derive(Debug)]
pub struct Page<T> {
    pub entries: Vec<T>,
    pub next_token: Option<String>,
}

const MAX_LENGTH: usize = 512;
const MAX_PAGE: i64 = 100;

impl<I: Display + FromStr + Ord> Cursor<I> {
    pub(crate) fn encode(&self) -> String {
        let time = self.at.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let suffix = match self.direction {
            Direction::Descending => "",
            Direction::Ascending => ASCENDING,
        };
        URL_SAFE.encode(format!("{time}__{}{suffix}", self.id))
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let bytes = URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text));
        let text = String::from_utf8(bytes.ok()?).ok()?;
        let (time, rest) = text.split_once("__")?;
        let (id, direction) = match rest.strip_suffix(ASCENDING) {
            Some(id) => (id, Direction::Ascending),
            None => (rest, Direction::Descending),
        };
        Some(Self {
            at: DateTime::parse_from_rfc3339(time).ok()?.with_timezone(&Utc),
            id: id.parse().ok()?,
            direction,
        })
    }

    /// Whether an entry belongs behind this cursor.
    fn precedes(&self, at: DateTime<Utc>, id: &I) -> bool {
        let entry = (at, id);
        let cursor = (self.at, &self.id);
        match self.direction {
            Direction::Descending => entry < cursor,
            Direction::Ascending => entry > cursor,
        }
    }
}

/// What a caller asks of a paged list.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    pub direction: Direction,
    /// What an earlier page ended with.
    pub next_token: Option<String>,
    /// 1 to 100, which is the default.
    pub limit: Option<i64>,
}

/// A checked [`PageRequest`].
pub(crate) struct PageQuery<I> {
    direction: Direction,
    pub(crate) cursor: Option<Cursor<I>>,
    pub(crate) limit: usize,
}

impl PageRequest {
    pub(crate) fn check<I: Display + FromStr + Ord>(&self) -> Result<PageQuery<I>, Error> {
        let limit = self.limit.unwrap_or(MAX_PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(Error::invalid(
                "limit",
                format_args!("must be from 1 to {MAX_PAGE}, is {limit}"),
            ));
        }
        let cursor = match &self.next_token {
            Some(token) => Some(
                Cursor::decode(token)
                    .filter(|cursor| cursor.direction == self.direction)
                    .ok_or_else(|| Error::new(Kind::Invalid, "Invalid next token"))?,
            ),
            None => None,
        };
        Ok(PageQuery {
            direction: self.direction,
            cursor,
            limit: usize::try_from(limit).unwrap_or(1),
        })
    }
}

impl<I: Display + FromStr + Ord + Clone> PageQuery<I> {
    /// Sorts `entries` and keeps the asked-for page of them.
    pub(crate) fn page<T>(
        &self,
        mut entries: Vec<T>,
        key: impl Fn(&T) -> (DateTime<Utc>, &I),
    ) -> Page<T> {
        entries.sort_by(|a, b| key(a).cmp(&key(b)));
        if self.direction == Direction::Descending {
            entries.reverse();
        }
        if let Some(cursor) = &self.cursor {
            entries.retain(|entry| {
                let (at, id) = key(entry);
                cursor.precedes(at, id)
            });
        }
        self.cut(entries, key)
    }

    /// Cuts sorted entries to a page; what is over says that there is a next one.
    pub(crate) fn cut<T>(
        &self,
        mut entries: Vec<T>,
        key: impl Fn(&T) -> (DateTime<Utc>, &I),
    ) -> Page<T> {
        let more = entries.len() > self.limit;
        entries.truncate(self.limit);
        let next_token = entries.last().filter(|_| more).map(|entry| {
            let (at, id) = key(entry);
            Cursor {
                at,
                id: id.clone(),
                direction: self.direction,
            }
            .encode()
        });
        Page {
            entries,
            next_token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_ids::SandboxId;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back(nanos in 0i64..4_000_000_000_000_000_000, ascending: bool) {
            let cursor = Cursor {
                at: DateTime::from_timestamp_nanos(nanos),
                id: SandboxId::random(),
                direction: if ascending { Direction::Ascending } else { Direction::Descending },
            };
            prop_assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        }

        #[test]
        fn nothing_that_callers_send_panics(text in ".{0,80}", bytes: Vec<u8>) {
            let _ = Cursor::<SandboxId>::decode(&text);
            let _ = Cursor::<SandboxId>::decode(&URL_SAFE.encode(bytes));
        }

        /// Pages, read one after the other, hold every entry once and in order,
        /// even where many began at the same time.
        #[test]
        fn pages_hold_everything_once(
            times in proptest::collection::vec(0i64..5, 0..40),
            limit in 1i64..10,
            ascending: bool,
        ) {
            let direction = if ascending { Direction::Ascending } else { Direction::Descending };
            let all: Vec<(DateTime<Utc>, SandboxId)> = times
                .into_iter()
                .map(|nanos| (DateTime::from_timestamp_nanos(nanos), SandboxId::random()))
                .collect();
            let mut expected = all.clone();
            expected.sort();
            if !ascending {
                expected.reverse();
            }
            let mut read = Vec::new();
            let mut next_token = None;
            loop {
                let request = PageRequest { direction, next_token, limit: Some(limit) };
                let query = request.check::<SandboxId>().expect("own tokens are valid");
                let page = query.page(all.clone(), |(at, id)| (*at, id));
                prop_assert!(page.entries.len() <= limit as usize);
                read.extend(page.entries);
                next_token = page.next_token;
                if next_token.is_none() {
                    break;
                }
            }
            prop_assert_eq!(read, expected);
        }
    }
}
